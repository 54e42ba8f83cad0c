package policy

import (
	"errors"
	"fmt"
	"strings"
)

// maxRepository is the longest repository name, registry included, that the
// distribution specification allows.
const maxRepository = 255

// NormalizeImage splits an image reference as a deployer writes it into its
// repository with the registry written out ("nginx" is
// "docker.io/library/nginx"), its tag and its digest; tag and digest are "" if
// not said, and no tag is made up. It follows the grammar of the distribution
// project's reference package; letter case in a registry's name is kept, so
// that only the very names Docker takes for Docker Hub become docker.io. An
// image id ("sha256:...") is no reference.
func NormalizeImage(ref string) (repository, tag, digest string, err error) {
	repository, tag, digest, err = splitImage(ref)
	if err != nil {
		return "", "", "", fmt.Errorf("image reference %q: %w", shorten(ref), err)
	}
	return repository, tag, digest, nil
}

func splitImage(ref string) (repository, tag, digest string, err error) {
	if isDigest(ref) || isHex(ref, 64) {
		return "", "", "", errors.New("this is an image id, not a name")
	}
	name, digest, hasDigest := strings.Cut(ref, "@")
	if hasDigest && !isDigest(digest) {
		return "", "", "", errors.New("want a digest such as sha256:<64 hex digits> after '@'")
	}
	// A colon after the last slash starts the tag; one before it is a port's.
	if colon := strings.LastIndexByte(name, ':'); colon > strings.LastIndexByte(name, '/') {
		name, tag = name[:colon], name[colon+1:]
		if !isTag(tag) {
			return "", "", "", errors.New("want a tag of letters, digits, '_', '.' and '-' after ':'")
		}
	}
	registry, path := splitRegistry(name)
	if !isRegistry(registry) {
		return "", "", "", errors.New("want a registry such as registry.example:5000 before the first '/'")
	}
	for part := range strings.SplitSeq(path, "/") {
		if !isPathPart(part) {
			return "", "", "", errors.New("want lower-case letters and digits, joined by '.', '_', '__' or '-', between slashes")
		}
	}
	if registry == "docker.io" && !strings.Contains(path, "/") {
		path = "library/" + path
	}
	repository = registry + "/" + path
	if len(repository) > maxRepository {
		return "", "", "", fmt.Errorf("longer than %d bytes", maxRepository)
	}
	return repository, tag, digest, nil
}

// splitRegistry tells a registry from the first part of a Docker Hub path, as
// Docker does: it has a dot, a colon or an upper-case letter, or is localhost.
func splitRegistry(name string) (registry, path string) {
	first, rest, ok := strings.Cut(name, "/")
	isHost := strings.ContainsAny(first, ".:") || first == "localhost" || strings.ToLower(first) != first
	if !ok || !isHost {
		return "docker.io", name
	}
	if first == "index.docker.io" {
		first = "docker.io"
	}
	return first, rest
}

func isRegistry(s string) bool {
	host := s
	if colon := strings.LastIndexByte(s, ':'); colon > strings.LastIndexByte(s, ']') {
		port := s[colon+1:]
		if port == "" || strings.Trim(port, "0123456789") != "" {
			return false
		}
		host = s[:colon]
	}
	if inner, ok := strings.CutPrefix(host, "["); ok {
		inner, ok = strings.CutSuffix(inner, "]")
		return ok && inner != "" && strings.Trim(inner, "0123456789abcdefABCDEF:") == ""
	}
	for label := range strings.SplitSeq(host, ".") {
		if label == "" || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for i := range len(label) {
			if !isAlnum(label[i]) && label[i] != '-' {
				return false
			}
		}
	}
	return true
}

// isPathPart: alphanumerics joined by one '.', one or two '_', or any number of '-'.
func isPathPart(s string) bool {
	if s == "" || !isLowerAlnum(s[0]) || !isLowerAlnum(s[len(s)-1]) {
		return false
	}
	for i := 0; i < len(s); i++ {
		if isLowerAlnum(s[i]) {
			continue
		}
		start := i
		for !isLowerAlnum(s[i+1]) {
			i++
		}
		if sep := s[start : i+1]; sep != "." && sep != "_" && sep != "__" && strings.Trim(sep, "-") != "" {
			return false
		}
	}
	return true
}

func isTag(s string) bool {
	if s == "" || len(s) > 128 || s[0] == '.' || s[0] == '-' {
		return false
	}
	for i := range len(s) {
		if c := s[i]; !isAlnum(c) && c != '_' && c != '.' && c != '-' {
			return false
		}
	}
	return true
}

// isDigest knows the algorithms that the OCI image specification registers.
func isDigest(s string) bool {
	algorithm, hex, _ := strings.Cut(s, ":")
	switch algorithm {
	case "sha256":
		return isHex(hex, 64)
	case "sha384":
		return isHex(hex, 96)
	case "sha512":
		return isHex(hex, 128)
	}
	return false
}

func isHex(s string, n int) bool {
	return len(s) == n && strings.Trim(s, "0123456789abcdef") == ""
}

func isLowerAlnum(c byte) bool { return 'a' <= c && c <= 'z' || '0' <= c && c <= '9' }

func isAlnum(c byte) bool { return isLowerAlnum(c) || 'A' <= c && c <= 'Z' }

// shorten keeps an error's quotation of outside text readable.
func shorten(s string) string {
	if len(s) > 80 {
		return s[:80] + "..."
	}
	return s
}
