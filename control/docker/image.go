package docker

import (
	"slices"
	"strings"

	"github.com/distribution/reference"
	dockerclient "github.com/fsouza/go-dockerclient"

	"gatehouse/policy"
)

// image is what an image's own config says; the cache holds it by image ID. A
// nil *image is one that the engine no longer has: nothing of its containers can
// then be told apart from what was baked in.
type image struct {
	id         string
	tags       []string
	digests    []string // normalised, sorted
	pulled     []string // repositories that the engine pulled it from, normalised
	labels     map[string]string
	env        []string
	entrypoint []string
	cmd        []string
	exposed    map[dockerclient.Port]struct{}
}

func newImage(i *dockerclient.Image) *image {
	img := &image{id: i.ID, tags: i.RepoTags}
	for _, d := range i.RepoDigests {
		if named, err := reference.ParseNormalizedNamed(d); err == nil {
			img.digests = append(img.digests, named.String())
		}
	}
	slices.Sort(img.digests)
	if c := i.Config; c != nil {
		img.labels, img.env, img.entrypoint, img.cmd, img.exposed = c.Labels, c.Env, c.Entrypoint, c.Cmd, c.ExposedPorts
	}
	return img
}

// describe makes the vocabulary's image of a reference as the deployer wrote it.
func (i *image) describe(ref, id string, classicStore bool) policy.Image {
	out := policy.Image{Ref: ref, ID: id, ClassicStore: classicStore}
	if i != nil {
		out.RepoDigests, out.Labels, out.PulledFrom = i.digests, keptLabels(i.labels), i.pulled
		for _, variable := range i.env {
			key, _, _ := strings.Cut(variable, "=")
			out.EnvKeys = append(out.EnvKeys, key)
		}
	}
	out.Repository, out.Tag = repository(ref)
	if isImageID(ref, id) {
		out.Repository, out.Tag = i.onlyRepository(), ""
	}
	return out
}

// repository normalises a reference: docker.io/library/nginx, 1.27. It gives
// nothing for what is no reference.
func repository(ref string) (repo, tag string) {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return "", ""
	}
	if t, ok := named.(reference.Tagged); ok {
		tag = t.Tag()
	} else if _, ok := named.(reference.Digested); !ok {
		tag = "latest"
	}
	return named.Name(), tag
}

// isImageID reports whether a container was created from an image's ID, whole or
// shortened, and not from a name.
func isImageID(ref, id string) bool {
	hex := strings.TrimPrefix(ref, "sha256:")
	if strings.HasPrefix(ref, "sha256:") {
		return true
	}
	return len(hex) >= 4 && strings.Trim(hex, "0123456789abcdef") == "" && strings.HasPrefix(strings.TrimPrefix(id, "sha256:"), hex)
}

// onlyRepository is the one repository that the engine knows the image by, ""
// if there is none or more than one: the deployer named none.
func (i *image) onlyRepository() string {
	if i == nil {
		return ""
	}
	only := ""
	for _, ref := range slices.Concat(i.tags, i.digests) {
		repo, _ := repository(ref)
		if only != "" && repo != only {
			return ""
		}
		only = repo
	}
	return only
}
