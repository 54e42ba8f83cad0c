package docker

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"gatehouse/policy"
)

// Labels that orchestrators put on containers and networks.
const (
	composeProject    = "com.docker.compose.project"
	composeService    = "com.docker.compose.service"
	composeConfigHash = "com.docker.compose.config-hash"
	composeNumber     = "com.docker.compose.container-number"
	composeOneOff     = "com.docker.compose.oneoff"
	composeSlug       = "com.docker.compose.slug" // random, of a one-off
	composeDependsOn  = "com.docker.compose.depends_on"
	swarmServiceID    = "com.docker.swarm.service.id"
	swarmServiceName  = "com.docker.swarm.service.name"
	swarmTaskID       = "com.docker.swarm.task.id"
	stackNamespace    = "com.docker.stack.namespace"
)

// provesMembership reports whether an orchestrator alone may set the label. An
// image that bakes one is reported; Compose bakes .project, .service and
// .version into what it builds, which is no offence.
func provesMembership(key string) bool {
	return key == composeConfigHash || key == composeNumber || key == composeSlug || key == stackNamespace || strings.HasPrefix(key, "com.docker.swarm.")
}

// tellLabels says of each label who set it (I3): the engine merges an image's
// labels into the container's. With an unknown image all count as baked in.
func tellLabels(container map[string]string, img *image) (labels map[string]policy.Label, notes []string) {
	if len(container) == 0 {
		return nil, nil
	}
	labels = make(map[string]policy.Label, len(container))
	for key, value := range container {
		by := policy.SetByImage
		if img != nil {
			if baked, ok := img.labels[key]; !ok || baked != value {
				by = policy.SetByDeployer
			}
		}
		labels[key] = policy.Label{Value: keptLabel(key, value), By: by}
	}
	if img == nil {
		return labels, nil
	}
	for _, key := range slices.Sorted(maps.Keys(img.labels)) {
		if provesMembership(key) && labels[key].By == policy.SetByImage {
			notes = append(notes, fmt.Sprintf("label %s is baked into the image: ignored", key))
		}
	}
	return labels, notes
}

// addServiceLabels adds a Swarm service's own labels, which are its deployer's;
// a label that the deployer set on the container itself stays.
func addServiceLabels(labels map[string]policy.Label, service map[string]string) map[string]policy.Label {
	for key, value := range service {
		if old, ok := labels[key]; ok && old.By == policy.SetByDeployer {
			continue
		}
		if labels == nil {
			labels = map[string]policy.Label{}
		}
		labels[key] = policy.Label{Value: keptLabel(key, value), By: policy.SetByDeployer}
	}
	return labels
}

// keptLabel is what is kept of a label's value: people put basic-auth users,
// tokens and DSNs into labels of proxies and of their own.
func keptLabel(key, value string) string {
	switch {
	case strings.HasPrefix(key, "gatehouse."), strings.HasPrefix(key, "com.docker."):
		return value
	case looksSecret(key):
		return redacted
	case strings.Contains(value, "@") && strings.Contains(value, ":"):
		return withoutUser(value)
	}
	return value
}

func keptLabels(labels map[string]string) map[string]string {
	if len(labels) == 0 {
		return nil
	}
	out := make(map[string]string, len(labels))
	for key, value := range labels {
		out[key] = keptLabel(key, value)
	}
	return out
}

func setByDeployer(labels map[string]policy.Label, key string) bool {
	l, ok := labels[key]
	return ok && l.By == policy.SetByDeployer
}

// isCompose proves membership of a Compose project (I2). A container of `compose
// run` has no number; that it is a one-off stands in its place, and with Compose 1,
// which gives it no hash either, its slug in that one's.
func isCompose(labels map[string]policy.Label) bool {
	if labels[composeProject].Value == "" || labels[composeService].Value == "" {
		return false
	}
	hash := setByDeployer(labels, composeConfigHash)
	if setByDeployer(labels, composeOneOff) && strings.EqualFold(labels[composeOneOff].Value, "true") {
		return hash || setByDeployer(labels, composeSlug)
	}
	return hash && setByDeployer(labels, composeNumber)
}

// isSwarm proves that a container is a Swarm task.
func isSwarm(labels map[string]policy.Label) bool {
	return setByDeployer(labels, swarmServiceID) && setByDeployer(labels, swarmServiceName) && setByDeployer(labels, swarmTaskID)
}

// domains are the name spaces of projects (I1).
type domains struct {
	engine string // Compose projects and hand-made networks
	swarm  string // stacks; "" where this node does not know its cluster
}

func (d domains) ofSwarm() string {
	if d.swarm == "" {
		return d.engine
	}
	return d.swarm
}

// networkOwner is the project in a network's labels (I8).
func networkOwner(labels map[string]string, d domains) policy.ProjectKey {
	if stack := labels[stackNamespace]; stack != "" {
		return policy.ProjectKey{Domain: d.ofSwarm(), Name: stack}
	}
	if project := labels[composeProject]; project != "" {
		return policy.ProjectKey{Domain: d.engine, Name: project}
	}
	return policy.ProjectKey{}
}

// serviceKey says to which project and service a container belongs (I2, I4, I5).
// handMade is the hand-made network that it was started on, "" if none.
func serviceKey(name string, labels map[string]policy.Label, d domains, handMade string) (key policy.ServiceKey, compose, swarm bool) {
	switch {
	case isSwarm(labels):
		stack := ""
		if setByDeployer(labels, stackNamespace) {
			stack = labels[stackNamespace].Value
		}
		service := labels[swarmServiceName].Value
		if stack != "" {
			service = strings.TrimPrefix(service, stack+"_")
		}
		return policy.ServiceKey{Project: policy.ProjectKey{Domain: d.ofSwarm(), Name: stack}, Name: service}, false, true
	case isCompose(labels):
		project := policy.ProjectKey{Domain: d.engine, Name: labels[composeProject].Value}
		return policy.ServiceKey{Project: project, Name: labels[composeService].Value}, true, false
	case handMade != "":
		return policy.ServiceKey{Project: policy.ProjectKey{Domain: d.engine, Name: "net:" + handMade}, Name: name}, false, false
	}
	return policy.ServiceKey{Project: policy.ProjectKey{Domain: d.engine}, Name: name}, false, false
}
