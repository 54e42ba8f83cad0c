package models

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"gatehouse/policy"
)

// TrustSettings are the operator's settings of how far an image may be
// believed (T1-T5). The zero value is the default.
type TrustSettings struct {
	// Registries are trusted beside DefaultRegistries; some may be mirrors.
	Registries []Registry
	// Digests are images that the operator vouches for, each
	// "REPOSITORY@sha256:...": the digest is taken for that repository
	// whatever name it runs under.
	Digests []string
	// LocalFull ends T4: a name alone is believed as if it came from a trusted registry.
	LocalFull bool
}

// Registry is the start of trusted repository names.
type Registry struct {
	Prefix string // "registry.example:5000/", "docker.io/acme/"; ends at a '/'
	As     string // "docker.io/": what it mirrors; "" = itself
}

// DefaultRegistries are trusted in any case: they show who pushed under a name
// (docs/policy.md section 2). Amazon keeps a copy of Docker Hub's official
// images (https://docs.aws.amazon.com/AmazonECR/latest/public/public-gallery.html).
var DefaultRegistries = []Registry{
	{Prefix: "docker.io/"},
	{Prefix: "ghcr.io/"},
	{Prefix: "quay.io/"},
	{Prefix: "lscr.io/"},
	{Prefix: "mcr.microsoft.com/"},
	{Prefix: "gcr.io/"},
	{Prefix: "registry.k8s.io/"},
	{Prefix: "public.ecr.aws/"},
	{Prefix: "public.ecr.aws/docker/", As: "docker.io/"},
	{Prefix: "docker.elastic.co/"},
	{Prefix: "registry.gitlab.com/"},
}

// Validate reports all settings that cannot be meant.
func (t TrustSettings) Validate() error {
	var errs []error
	for _, r := range t.Registries {
		if !isRegistryPrefix(r.Prefix) || r.As != "" && !isRegistryPrefix(r.As) {
			errs = append(errs, fmt.Errorf("trust.registries: prefix %q, as %q: want a registry such as registry.example:5000/, maybe with the start of a path", r.Prefix, r.As))
		}
	}
	for _, d := range t.Digests {
		if _, _, digest, err := policy.NormalizeImage(d); err != nil || digest == "" {
			errs = append(errs, fmt.Errorf("trust.digests: %q: want REPOSITORY@sha256:DIGEST", d))
		}
	}
	return errors.Join(errs...)
}

// isRegistryPrefix: with a registry written out, lest Docker Hub is implied.
func isRegistryPrefix(prefix string) bool {
	name := strings.TrimSuffix(prefix, "/") + "/x/x"
	repository, tag, digest, err := policy.NormalizeImage(name)
	return err == nil && tag == "" && digest == "" && repository == name
}

// canonical is the repository that a name stands for once mirrors are
// resolved, and whether its registry is trusted. The longest prefix counts, of
// equal ones the operator's.
func (t TrustSettings) canonical(repository string) (string, bool) {
	var best Registry
	var path string // what follows best's prefix
	for _, rs := range [][]Registry{t.Registries, DefaultRegistries} {
		for _, r := range rs {
			rest, ok := strings.CutPrefix(repository, strings.TrimSuffix(r.Prefix, "/"))
			if ok && strings.HasPrefix(rest, "/") && (best.Prefix == "" || len(rest) < len(path)) {
				best, path = r, rest
			}
		}
	}
	if best.As == "" {
		return repository, best.Prefix != ""
	}
	meant, _, _, err := policy.NormalizeImage(strings.TrimSuffix(best.As, "/") + path)
	if err != nil {
		return repository, false
	}
	return meant, true
}

// origin is one repository that an image may be of, with what proves it.
type origin struct {
	repository string // mirrors resolved
	trust      policy.Trust
	reason     string
}

// origins lists what the image may be, the best proven first. The last is its
// name, which proves nothing.
func (t TrustSettings) origins(image *policy.Image) []origin {
	var out []origin
	for _, listed := range t.Digests {
		repository, _, digest, err := policy.NormalizeImage(listed)
		if err == nil && digest != "" && hasDigest(image, digest) {
			meant, _ := t.canonical(repository)
			out = append(out, origin{meant, policy.TrustDigest, "its digest is in the operator's list, as " + repository})
		}
	}
	for _, pulled := range image.PulledFrom {
		if meant, trusted := t.canonical(pulled); trusted {
			out = append(out, origin{meant, policy.TrustRegistry, "the engine pulled it from " + pulled})
		}
	}
	name := repositoryOf(image)
	if name == "" {
		return out
	}
	meant, trusted := t.canonical(name)
	switch {
	case trusted && image.ClassicStore && len(image.PulledFrom) == 0 && hasRepoDigest(image, name):
		out = append(out, origin{meant, policy.TrustRegistry, "the engine has a registry's digest for " + name})
	case t.LocalFull:
		out = append(out, origin{meant, policy.TrustRegistry, "only the name fits, and trust.local is full"})
	default:
		out = append(out, origin{meant, policy.TrustName, nameReason(image, name, trusted)})
	}
	return out
}

// nameReason says why a name is only a name.
func nameReason(image *policy.Image, name string, trusted bool) string {
	switch registry, _, _ := strings.Cut(name, "/"); {
	case !trusted:
		return "only the name fits: registry " + registry + " is not trusted"
	case len(image.PulledFrom) > 0:
		return "only the name fits: the engine pulled it from " + strings.Join(image.PulledFrom, ", ")
	case !image.ClassicStore && hasRepoDigest(image, name):
		return "only the name fits: with the containerd image store a digest does not show where an image came from"
	default:
		return "only the name fits: built, loaded or tagged here"
	}
}

// repositoryOf is the image's repository as its name says it, "" if it has none.
func repositoryOf(image *policy.Image) string {
	for _, name := range []string{image.Repository, image.Ref} {
		if repository, _, _, err := policy.NormalizeImage(name); err == nil {
			return repository
		}
	}
	return ""
}

// hasRepoDigest: a RepoDigest of that very repository.
func hasRepoDigest(image *policy.Image, repository string) bool {
	return slices.ContainsFunc(image.RepoDigests, func(s string) bool {
		r, _, digest, err := policy.NormalizeImage(s)
		return err == nil && digest != "" && r == repository
	})
}

// hasDigest: the content has that digest, under whatever name. The engine
// computes digests itself, so unlike names they cannot be claimed.
func hasDigest(image *policy.Image, digest string) bool {
	return image.ID == digest || slices.ContainsFunc(image.RepoDigests, func(s string) bool {
		_, _, d, err := policy.NormalizeImage(s)
		return err == nil && d == digest
	})
}
