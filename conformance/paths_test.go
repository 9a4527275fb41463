package conformance

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"kernelgw/conformance/probe"
)

// Paths that try to leave the workspace. Each has a check of its own, so that
// a report names the attack.
var pathChecks = func() []check {
	checks := []check{
		{
			name: "PathOf4KiBIsRefused", run: pathTooLong,
			extension: &extension{because: "it answers 500", fails: "answered 500"},
		},
		{name: "PathThatIsNotUTF8IsRefused", run: pathNotUTF8},
		{name: "PathOfDeepDirectoriesIsRefusedOrServed", run: pathDeep},
		{
			name: "PathInTheBodyStaysInTheWorkspace", run: pathInBody,
			extension: &extension{because: "it makes a file wherever the file extension leads", fails: "makes checks-.*/\\.\\./"},
		},
		{
			name: "PathSymlinkOutIsNotFollowed", run: symlinkOut,
			extension: &extension{because: "it follows links of the user's own", fails: "leads out"},
		},
	}
	for _, a := range attacks {
		checks = append(checks, check{
			name: "PathTraversal" + a.name, extension: a.extension,
			run: func(t testing.TB, s *target) { traversal(t, s, a.path) },
		})
	}
	return checks
}()

// attacks lead, taken at their word, to canary.txt in the directory
// home-secret beside the workspace's own, or to /etc/passwd. They are sent as
// they stand: percent signs are the client's.
var attacks = []struct {
	name, path string
	extension  *extension
}{
	{name: "DotDot", path: "../home-secret/canary.txt"},
	{name: "DotDotInside", path: "x/../../home-secret/canary.txt"},
	{name: "EncodedDots", path: "%2e%2e/home-secret/canary.txt"},
	{name: "EncodedSlash", path: "..%2fhome-secret%2fcanary.txt"},
	{name: "AllEncoded", path: "%2e%2e%2fhome-secret%2fcanary.txt"},
	{name: "DoubleEncoded", path: "%252e%252e%252fhome-secret%252fcanary.txt"},
	{name: "Backslash", path: `..%5chome-secret%5ccanary.txt`},
	{name: "MixedSlashes", path: `..%5c../home-secret/canary.txt`},
	{name: "NUL", path: "canary.txt%00../home-secret/canary.txt", extension: nul},
	{name: "NULAfterDots", path: "..%00/home-secret/canary.txt", extension: nul},
	{name: "SiblingWithTheSamePrefix", path: "../home-secret/../home-secret/canary.txt"},
	{name: "Absolute", path: "/etc/passwd"},
	{name: "AbsoluteEncoded", path: "%2fetc%2fpasswd"},
	{name: "ManyDots", path: "../../../../../../../../etc/passwd"},
	{name: "FourDots", path: "....//....//home-secret/canary.txt"},
	{name: "OverlongUTF8", path: "%c0%ae%c0%ae/home-secret/canary.txt"},
	{name: "FullwidthDots", path: "%ef%bc%8e%ef%bc%8e/home-secret/canary.txt"},
	{name: "TwoDotLeader", path: "%e2%80%a5/home-secret/canary.txt"},
	{name: "DotsAndSpace", path: "..%20/home-secret/canary.txt"},
	{name: "TildeHome", path: "~root/.bashrc"},
	{name: "FileURL", path: "file:///etc/passwd"},
	{name: "ProcSelf", path: "../../../../../../proc/self/environ"},
}

var nul = &extension{because: "it answers 500", fails: "answered 500"}

const canary = "the canary sings"

// plant puts what no path may reach beside the workspace of a server that was
// started here.
func plant(t testing.TB, s *target) {
	t.Helper()
	if s.process == nil {
		return
	}
	dir := filepath.Join(s.process.Dir, "home-secret")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	// Whole at any moment: checks that run at the same time look at it too.
	made := filepath.Join(dir, probe.ID())
	if err := errors.Join(os.WriteFile(made, []byte(canary), 0o644), os.Rename(made, filepath.Join(dir, "canary.txt"))); err != nil {
		t.Fatal(err)
	}
}

// traversal tries everything that takes a path. Reads must answer as for a
// file that is not there, writes must be refused.
func traversal(t testing.TB, s *target, path string) {
	plant(t, s)
	dir := folder(t, s)
	write(t, s, dir+"/bait.txt", "bait")
	try := func(method, at string, body any, want ...int) {
		t.Helper()
		answer := s.Do(t, method, at, body)
		if bytes.Contains(answer.Body, []byte(canary)) || bytes.Contains(answer.Body, []byte("root:x:")) || bytes.Contains(answer.Body, []byte("PATH=")) {
			t.Fatalf("%s %s reads what is outside: %.200s", method, at, answer.Body)
		}
		for _, status := range want {
			if answer.Status == status {
				return
			}
		}
		t.Errorf("%s %s answered %d, want %v: %.200s", method, at, answer.Status, want, answer.Body)
	}
	file := map[string]any{"type": "file", "format": "text", "content": "forged"}
	// Below a directory that exists, so that the server has something to climb.
	for _, prefix := range []string{"", dir + "/"} {
		up := path
		if prefix != "" && strings.HasPrefix(path, "..") {
			up = "../" + path
		}
		at := "api/contents/" + prefix + up
		try("GET", at, nil, 400, 403, 404)
		try("GET", at+"?content=1&type=file&format=text&hash=1", nil, 400, 403, 404)
		try("GET", "files/"+prefix+up, nil, 302, 400, 403, 404)
		try("GET", at+"/checkpoints", nil, 200, 400, 403, 404)
		if prefix == "" {
			continue
		}
		try("DELETE", at, nil, 400, 403, 404)
		try("PATCH", at, map[string]string{"path": dir + "/stolen.txt"}, 400, 403, 404)
	}
	plain := strings.NewReplacer("%2e", ".", "%2f", "/", "%5c", `\`, "%00", "\x00", "%20", " ").Replace(path)
	if strings.Contains(plain, "../") {
		try("PUT", "api/contents/"+path, file, 400, 403, 404, 409)
	}
	if strings.HasPrefix(plain, "../") {
		try("PATCH", contentsAt(dir+"/bait.txt"), map[string]string{"path": plain}, 400, 403, 404)
	}
	try("POST", contentsAt(dir), map[string]string{"copy_from": plain}, 400, 403, 404)
	if s.process != nil {
		got, err := os.ReadFile(filepath.Join(s.process.Dir, "home-secret", "canary.txt"))
		if err != nil || string(got) != canary {
			t.Errorf("the file beside the workspace is now %q (%v)", got, err)
		}
	}
	if got := names(read(t, s, dir, "").entries(t)); len(got) != 1 {
		t.Errorf("the directory holds %q", got)
	}
}

func pathTooLong(t testing.TB, s *target) {
	dir := folder(t, s)
	write(t, s, dir+"/a.txt", "kept")
	file := map[string]any{"type": "file", "format": "text", "content": "x"}
	for what, long := range map[string]string{
		"one name":   strings.Repeat("n", 4096),
		"wide":       strings.Repeat("é", 2048),
		"many names": strings.Repeat("d/", 2048) + "a.txt",
	} {
		for _, r := range []struct {
			method, path string
			body         any
		}{
			{"GET", contentsAt(dir + "/" + long), nil},
			{"PUT", contentsAt(dir + "/" + long), file},
			{"PUT", contentsAt(dir + "/" + long), map[string]string{"type": "directory"}},
			{"DELETE", contentsAt(dir + "/" + long), nil},
			{"POST", contentsAt(dir + "/" + long), nil},
			{"PATCH", contentsAt(dir + "/a.txt"), map[string]string{"path": dir + "/" + long}},
			{"POST", contentsAt(dir), map[string]string{"copy_from": dir + "/" + long}},
			{"POST", contentsAt(dir), map[string]string{"type": "file", "ext": "." + strings.ReplaceAll(long, "/", "")}},
			{"GET", "files/" + escape(dir+"/"+long), nil},
		} {
			if answer := s.Do(t, r.method, r.path, r.body); answer.Status != 400 && answer.Status != 404 {
				t.Errorf("%s: %s %.60s answered %d, want 400 or 404: %.200s", what, r.method, r.path, answer.Status, answer.Body)
			}
		}
	}
	if got := names(read(t, s, dir, "").entries(t)); len(got) != 1 {
		t.Errorf("the directory holds %.200q", got)
	}
}

func pathNotUTF8(t testing.TB, s *target) {
	dir := folder(t, s)
	for _, name := range []string{"%ff%fe.txt", "a%80b.txt", "%ed%a0%80.txt"} {
		at := "api/contents/" + dir + "/" + name
		body := map[string]any{"type": "file", "format": "text", "content": "x"}
		if answer := s.Do(t, "PUT", at, body); answer.Status != 400 && answer.Status != 404 {
			t.Errorf("PUT %s answered %d, want 400", name, answer.Status)
		}
		if answer := s.Do(t, "GET", at, nil); answer.Status != 400 && answer.Status != 404 {
			t.Errorf("GET %s answered %d, want 404", name, answer.Status)
		}
	}
	read(t, s, dir, "content=1")
}

func pathDeep(t testing.TB, s *target) {
	path := folder(t, s)
	for range 40 {
		path += "/d"
		put(t, s, path, map[string]any{"type": "directory"}).Want(t, 201)
	}
	write(t, s, path+"/a.txt", "deep")
	if got := read(t, s, path+"/a.txt", "").text(t); got != "deep" {
		t.Errorf("the file is %q", got)
	}
}

// pathInBody: names that clients put into bodies are paths too.
func pathInBody(t testing.TB, s *target) {
	dir := folder(t, s)
	for _, ext := range []string{"/../../evil.txt", "/x", "/../x.txt"} {
		answer := s.Do(t, "POST", contentsAt(dir), map[string]string{"type": "file", "ext": ext})
		if answer.Status == 201 {
			if m := fileModel(t, answer); !strings.HasPrefix(m.Path, dir+"/") || strings.Contains(m.Path, "..") {
				t.Errorf("ext %q makes %s", ext, m.Path)
			}
		} else if answer.Status >= 500 {
			t.Errorf("ext %q answered %d", ext, answer.Status)
		}
	}
	put(t, s, dir+"/a.txt", map[string]any{"type": "file", "format": "text", "content": "x", "path": "../evil.txt", "name": "../evil.txt"}).Want(t, 201, 400, 404)
	if got := names(read(t, s, "", "").entries(t)); strings.Contains(strings.Join(got, " "), "evil") {
		t.Errorf("the workspace's root holds %q", got)
	}
}

// symlinkOut makes the link where the files are, by a kernel, and looks when
// what the kernel wrote after it has arrived.
func symlinkOut(t testing.TB, s *target) {
	dir := folder(t, s)
	w := kernelIn(t, s, dir)
	w.Run(t, "import os; os.symlink('/etc', 'link'); os.symlink('/etc/passwd', 'passwd.txt'); open('after.txt', 'w').close()")
	arrives(t, s, dir+"/after.txt", "")
	for _, path := range []string{dir + "/link/passwd", dir + "/passwd.txt"} {
		for _, at := range []string{contentsAt(path), filesAt(path)} {
			if answer := s.Do(t, "GET", at, nil); bytes.Contains(answer.Body, []byte("root:")) {
				t.Errorf("a link leads out of the workspace: %s", at)
			}
		}
	}
}
