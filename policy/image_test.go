package policy

import (
	"strings"
	"testing"

	"github.com/distribution/reference"
)

const someDigest = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

func TestNormalizeImage(t *testing.T) {
	for ref, want := range map[string]string{
		"nginx":                                 "docker.io/library/nginx||",
		"nginx:1.27-alpine":                     "docker.io/library/nginx|1.27-alpine|",
		"library/nginx":                         "docker.io/library/nginx||",
		"docker.io/nginx":                       "docker.io/library/nginx||",
		"index.docker.io/bitnami/redis:7":       "docker.io/bitnami/redis|7|",
		"bitnami/redis@" + someDigest:           "docker.io/bitnami/redis||" + someDigest,
		"nginx:1@" + someDigest:                 "docker.io/library/nginx|1|" + someDigest,
		"127.0.0.1:5000/library/nginx":          "127.0.0.1:5000/library/nginx||",
		"registry.example:5000/nginx:v1":        "registry.example:5000/nginx|v1|",
		"[2001:db8::1]:5000/a/b:c":              "[2001:db8::1]:5000/a/b|c|",
		"localhost/nginx":                       "localhost/nginx||",
		"Docker.io/nginx":                       "Docker.io/nginx||",
		"registry-1.docker.io/library/nginx":    "registry-1.docker.io/library/nginx||",
		"quay.io/prometheus/node-exporter:v1.8": "quay.io/prometheus/node-exporter|v1.8|",
		"a/b__c/d--e":                           "docker.io/a/b__c/d--e||",
	} {
		repository, tag, digest, err := NormalizeImage(ref)
		if got := repository + "|" + tag + "|" + digest; err != nil || got != want {
			t.Errorf("%s: %s, %v; want %s", ref, got, err, want)
		}
	}
	for _, ref := range []string{
		"", ":", "@", "/", "nginx:", "nginx@", "nginx@sha256:abc", "Nginx", "nginx/", "/nginx", "a//b", "nginx:a b",
		"https://registry.example/nginx", "nginx:latest:latest", someDigest, someDigest[7:], "ngіnx", "nginx\x00", "nginx\n",
		"a_-b", "a..b", "a___b", "a-", ".a", "-registry.example/a", "registry..example/a", "[::1/a", "[]/a", "host:/a",
		strings.Repeat("a", 256), "nginx:" + strings.Repeat("a", 129), " nginx", "nginx ",
	} {
		if repository, tag, digest, err := NormalizeImage(ref); err == nil {
			t.Errorf("%q was accepted as %s|%s|%s", ref, repository, tag, digest)
		}
	}
}

// FuzzNormalizeImage compares with the reference package that Docker uses.
func FuzzNormalizeImage(f *testing.F) {
	for _, ref := range []string{"nginx", "a/b:c@" + someDigest, "127.0.0.1:5000/x", "[::1]:5000/a_b", "A.b/c", "a__b--c.d", "localhost:1/x:y", "x@sha512:00"} {
		f.Add(ref)
	}
	f.Fuzz(func(t *testing.T, ref string) {
		if isDigest(ref) {
			t.Skip("an image id: the reference package takes it for a name with a tag")
		}
		repository, tag, digest, err := NormalizeImage(ref)
		named, wantErr := reference.ParseNormalizedNamed(ref)
		if (err == nil) != (wantErr == nil) {
			t.Fatalf("%q: %v; the reference package says %v", ref, err, wantErr)
		}
		if err != nil {
			return
		}
		var wantTag, wantDigest string
		if r, ok := named.(reference.Tagged); ok {
			wantTag = r.Tag()
		}
		if r, ok := named.(reference.Digested); ok {
			wantDigest = r.Digest().String()
		}
		if repository != named.Name() || tag != wantTag || digest != wantDigest {
			t.Fatalf("%q: %s|%s|%s; the reference package says %s|%s|%s", ref, repository, tag, digest, named.Name(), wantTag, wantDigest)
		}
		again, _, _, err := NormalizeImage(repository)
		if err != nil || again != repository {
			t.Fatalf("%q: %s normalises to %s, %v", ref, repository, again, err)
		}
	})
}
