package docker

import (
	"errors"

	dockerclient "github.com/fsouza/go-dockerclient"
)

type container struct {
	id         string
	request    request
	summary    string                  // its line in the list, at the last inspect
	inspected  *dockerclient.Container // nil = not yet
	image      *image
	running    bool
	down       bool // it died, and no start was seen since
	deaths     int
	askedSwarm bool // a manager was asked since it appeared
	// service is what was told last of a task's service, which may be gone while
	// the task still stops.
	service *swarmService
	// enforces: a label at its creation asks for it. Whoever set the label, it
	// may tighten.
	enforces  bool
	uncovered string
}

func (s *session) container(id string) *container {
	c, ok := s.state.containers[id]
	if !ok {
		c = &container{id: id}
		s.state.containers[id] = c
	}
	return c
}

func (s *session) dropContainer(id string) {
	delete(s.state.containers, id)
	s.state.names = nil
	s.moveRemotes()
	for _, n := range s.state.networks {
		n.leave(id)
	}
	if !s.state.hold {
		s.inv.Delete(id)
	}
}

func (s *session) askContainer(c *container) {
	deaths := c.deaths
	s.ask(&c.request, func() func() {
		select {
		case s.slots <- struct{}{}:
			defer func() { <-s.slots }()
		case <-s.ctx.Done():
		}
		info, err := s.engine.InspectContainerWithOptions(dockerclient.InspectContainerOptions{ID: c.id, Context: s.ctx})
		var img *image
		if err == nil {
			img, err = s.image(info.Image)
		}
		return func() {
			if err == nil && c.deaths != deaths {
				info.State.Running = false // it is of a life before
			}
			s.inspected(c, info, img, err)
		}
	})
}

// image returns the config of an image, nil for one that is gone.
func (s *session) image(id string) (*image, error) {
	if img, ok := s.images.Get(id); ok {
		return img, nil
	}
	i, err := s.engine.InspectImage(id)
	if errors.Is(err, dockerclient.ErrNoSuchImage) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	img := newImage(i)
	img.pulled = s.pulledFrom(id)
	s.images.Add(id, img)
	return img, nil
}

// pulledFrom are the repositories that the engine itself remembers having
// pulled the image from, normalised (T3). Engines before 29 do not tell.
func (s *session) pulledFrom(id string) []string {
	i, err := s.swarm.ImageInspect(s.ctx, id)
	if err != nil || i.Identity == nil {
		return nil
	}
	var from []string
	for _, pull := range i.Identity.Pull {
		if repo, _ := repository(pull.Repository); repo != "" {
			from = append(from, repo)
		}
	}
	return from
}

func (s *session) inspected(c *container, info *dockerclient.Container, img *image, err error) {
	again := c.request.answered()
	if s.state.containers[c.id] != c {
		return
	}
	switch {
	case errors.As(err, new(*dockerclient.NoSuchContainer)):
		s.dropContainer(c.id)
		return
	case err != nil:
		s.log.Debug("docker: container inspect", "container", c.id, "error", err)
		s.state.retry = true
		c.summary = ""
	default:
		c.inspected, c.image = info, img
		s.state.names = nil
		s.publish(c)
		s.known(c)
	}
	if again {
		s.askContainer(c)
	}
}
