package image

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
)

// Pattern names images of a policy, in one of three forms:
//
//   - "sha256:" and 64 hexadecimal digits: that image, wherever it came from;
//   - a name without a slash, as "default": images that were built on this host
//     or imported from its files, by their name in the store;
//   - "HOST/REPOSITORY", with ":TAG" or "@sha256:..." behind it or neither:
//     images that were pulled from a registry. The host is always written.
//
// A "*" in a name or tag stands for any characters but a slash, as in
// path.Match; "/**" at the end of a repository for everything below it.
type Pattern struct {
	text   string
	name   string   // of images of this host
	repo   []string // host and path, by component
	below  bool     // repo ended with **
	tag    string   // "" is any
	digest string   // "" is any
}

var digestForm = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

// ParsePattern reads a pattern.
func ParsePattern(text string) (Pattern, error) {
	p := Pattern{text: text}
	bad := func(why string) (Pattern, error) {
		return Pattern{}, fmt.Errorf("cannot use %q as a pattern of images: %s", text, why)
	}
	rest, digest, pinned := strings.Cut(text, "@")
	if digestForm.MatchString(text) {
		p.digest = text
		return p, nil
	}
	if pinned {
		if !digestForm.MatchString(digest) {
			return bad("what follows the @ is not sha256: and 64 hexadecimal digits in lower case")
		}
		p.digest = digest
	}
	if rest == "" || strings.ContainsFunc(rest, func(r rune) bool { return r <= ' ' || r == '@' }) {
		return bad("it has no name, or spaces in it")
	}
	if _, err := path.Match(rest, ""); err != nil {
		return bad("a bracket or backslash is left open")
	}
	if !strings.Contains(rest, "/") {
		if strings.Contains(rest, ":") {
			return bad("only a digest, or the name of an image of this host, has no slash; write HOST/REPOSITORY:TAG")
		}
		p.name = rest
		return p, nil
	}
	repo, tag := cutTag(rest)
	p.repo, p.tag = strings.Split(repo, "/"), tag
	if strings.HasSuffix(rest, ":") || slices.Contains(p.repo, "") {
		return bad("a part of it is empty")
	}
	if last := len(p.repo) - 1; p.repo[last] == "**" {
		p.repo, p.below = p.repo[:last], true
	}
	if slices.Contains(p.repo, "**") {
		return bad("** stands only at the end of a repository")
	}
	if !strings.ContainsAny(p.repo[0], ".:*") && p.repo[0] != "localhost" {
		return bad("it does not begin with the host of a registry; those of Docker Hub begin with docker.io/library/ or docker.io/USER/")
	}
	if p.repo[0] == "docker.io" {
		p.repo[0] = "index.docker.io"
	}
	return p, nil
}

// String is the pattern as it was written.
func (p Pattern) String() string { return p.text }

// matches reports whether the pattern names an image of that origin. An empty
// digest is one that is not known yet, which any may turn out to be.
func (p Pattern) matches(origin, digest string) bool {
	if p.digest != "" && digest != "" && p.digest != digest {
		return false
	}
	if p.name == "" && p.repo == nil {
		return true
	}
	where, _, _ := strings.Cut(origin, "@")
	if !strings.Contains(where, "/") {
		return p.name != "" && glob(p.name, where)
	}
	repo, tag := cutTag(where)
	if p.tag != "" && !glob(p.tag, tag) {
		return false
	}
	parts := strings.Split(repo, "/")
	if len(parts) < len(p.repo) || p.repo == nil || (len(parts) > len(p.repo)) != p.below {
		return false
	}
	for i, want := range p.repo {
		if !glob(want, parts[i]) {
			return false
		}
	}
	return true
}

func glob(pattern, name string) bool {
	ok, _ := path.Match(pattern, name) // valid, checked when parsed
	return ok
}

// cutTag splits a reference without digest. A colon before a slash is that of
// a port.
func cutTag(ref string) (repo, tag string) {
	if i := strings.LastIndexByte(ref, ':'); i > strings.LastIndexByte(ref, '/') {
		return ref[:i], ref[i+1:]
	}
	return ref, ""
}
