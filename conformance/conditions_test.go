package conformance

import (
	"fmt"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"kernelgw/conformance/probe"
)

// Changes that say what they change. Jupyter's own clients look first and then
// write, and what is saved in between is lost.
var conditionChecks = []check{
	{
		name: "ConditionsAre412AndSayWhoAndWhen", run: conditionsSayWho,
		extension: &extension{because: "it knows no conditions: what somebody else saved is overwritten", fails: "answered 20[014]"},
	},
	{
		name: "OfTwentyConditionalWritersOneWins", run: oneWins,
		extension: &extension{because: "the last writer wins, and the others are told that they saved", fails: "20 of 20 writers"},
	},
	{
		name: "OfTwentyCreatorsOneWins", run: oneCreates,
		extension: &extension{because: "the last writer wins, and the others are told that they saved", fails: "20 of 20 writers"},
	},
	{
		name: "NamesWithABackslashAre400", run: backslashes,
		extension: &extension{because: "it takes them, and not every storage and system can keep them", fails: "answered 20[01]"},
	},
	{name: "ResolvePathFindsFiles", run: resolvePath},
	{name: "ResolvePathRefusesWhatIsNoPath", run: resolvePathRefuses},
}

// text is the body of a save.
func text(content string) map[string]any {
	return map[string]any{"type": "file", "format": "text", "content": content}
}

func conditionsSayWho(t testing.TB, s *target) {
	dir := folder(t, s)
	path := dir + "/a.txt"
	write(t, s, path, "one")
	before := s.Do(t, "GET", contentsAt(path)+"?content=0", nil).Want(t, 200).Header.Get("ETag")
	saved := write(t, s, path, "two")
	when, err := time.Parse("2006-01-02T15:04:05.000000Z", saved.LastModified)
	if err != nil {
		t.Fatal(err)
	}
	refused := func(answer *probe.Answer) {
		t.Helper()
		body := answer.Want(t, 412).Object(t)
		message, _ := body["message"].(string)
		if want := fmt.Sprintf("by %s at %s", displayName(t, s), when.Format("2006-01-02T15:04")); !strings.Contains(message, want) {
			t.Errorf("the message is %q, want %q in it", message, want)
		}
		if body["reason"] != "changed" {
			t.Errorf("the reason is %v", body["reason"])
		}
	}
	ifMatch := func(tag string) probe.Edit { return probe.With("If-Match", tag) }
	refused(s.Do(t, "PUT", contentsAt(path), text("lost"), ifMatch(before)))
	refused(s.Do(t, "PUT", contentsAt(path), text("lost"), ifMatch(`"v:no-such-version"`)))
	refused(s.Do(t, "PUT", contentsAt(path), text("lost"), probe.With("If-None-Match", "*")))
	refused(s.Do(t, "PATCH", contentsAt(path), map[string]string{"path": dir + "/b.txt"}, ifMatch(before)))
	refused(s.Do(t, "DELETE", contentsAt(path), nil, ifMatch(before)))
	if got := read(t, s, path, "").text(t); got != "two" {
		t.Errorf("after refused changes the file is %q", got)
	}
	message, _ := s.Do(t, "PUT", contentsAt(dir+"/none.txt"), text("x"), ifMatch(before)).Want(t, 412).Object(t)["message"].(string)
	if !strings.Contains(message, "deleted") {
		t.Errorf("of a file that is gone it is said %q", message)
	}
	for _, malformed := range []string{"bad", `"a", "b"`, `"`, `W/"x"`} {
		s.Do(t, "PUT", contentsAt(path), text("x"), ifMatch(malformed)).Want(t, 400)
	}
	// The right one, each time from the answer to the change before.
	tag := s.Do(t, "GET", contentsAt(path)+"?content=0", nil).Want(t, 200).Header.Get("ETag")
	tag = s.Do(t, "PUT", contentsAt(path), text("three"), ifMatch(tag)).Want(t, 200).Header.Get("ETag")
	tag = s.Do(t, "PUT", contentsAt(path), text("four"), ifMatch(tag)).Want(t, 200).Header.Get("ETag")
	s.Do(t, "PATCH", contentsAt(path), map[string]string{"path": dir + "/b.txt"}, ifMatch(tag)).Want(t, 200)
	if got := read(t, s, dir+"/b.txt", "").text(t); got != "four" {
		t.Errorf("the file is %q", got)
	}
	s.Do(t, "PUT", contentsAt(dir+"/new.txt"), text("new"), probe.With("If-None-Match", "*")).Want(t, 201)
}

// race saves twenty times at once under one condition and returns how many were
// told that they saved.
func race(t testing.TB, s *target, path string, condition probe.Edit) int {
	t.Helper()
	var won atomic.Int64
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			answer, err := s.Try(t, "PUT", contentsAt(path), text(fmt.Sprint("writer ", i)), condition)
			switch {
			case err != nil:
				t.Errorf("writer %d: %v", i, err)
			case answer.Status == 200 || answer.Status == 201:
				won.Add(1)
			case answer.Status != 409 && answer.Status != 412:
				t.Errorf("writer %d got %d: %.200s", i, answer.Status, answer.Body)
			}
		})
	}
	all.Wait()
	return int(won.Load())
}

func oneWins(t testing.TB, s *target) {
	path := folder(t, s) + "/a.txt"
	write(t, s, path, "first")
	tag := s.Do(t, "GET", contentsAt(path)+"?content=0", nil).Want(t, 200).Header.Get("ETag")
	if won := race(t, s, path, probe.With("If-Match", tag)); won != 1 {
		t.Errorf("%d of 20 writers of one version saved", won)
	}
}

func oneCreates(t testing.TB, s *target) {
	path := folder(t, s) + "/a.txt"
	if won := race(t, s, path, probe.With("If-None-Match", "*")); won != 1 {
		t.Errorf("%d of 20 writers made a new file", won)
	}
}

func backslashes(t testing.TB, s *target) {
	dir := folder(t, s)
	write(t, s, dir+"/a.txt", "kept")
	for _, name := range []string{`a\b.txt`, `\`, `..\a.txt`, `C:\a.txt`, `a.txt\`} {
		for _, r := range []struct {
			method, path string
			body         any
		}{
			{"PUT", dir + "/" + name, text("x")},
			{"PUT", dir + "/" + name, map[string]string{"type": "directory"}},
			{"PATCH", dir + "/a.txt", map[string]string{"path": dir + "/" + name}},
			{"POST", dir, map[string]string{"type": "file", "ext": "." + name}},
			{"POST", dir + "/" + name, nil},
			{"DELETE", dir + "/" + name, nil},
		} {
			if answer := s.Do(t, r.method, contentsAt(r.path), r.body); answer.Status != 400 {
				t.Errorf("%s of %q answered %d, want 400: %.200s", r.method, name, answer.Status, answer.Body)
			}
		}
	}
	if got := names(read(t, s, dir, "").entries(t)); len(got) != 1 {
		t.Errorf("the directory holds %q", got)
	}
}

type resolution struct {
	Resolved   []struct{ Scope, Path string }
	Unresolved []struct{ Scope, Reason string }
}

func resolve(t testing.TB, s *target, query ...string) (r resolution) {
	t.Helper()
	values := url.Values{}
	for i := 0; i < len(query); i += 2 {
		values.Set(query[i], query[i+1])
	}
	answer := s.Do(t, "GET", "api/resolvePath?"+values.Encode(), nil).Want(t, 200)
	answer.Decode(t, &r)
	if r.Resolved == nil {
		t.Errorf("resolved is no list: %s", answer.Body)
	}
	return r
}

// server is the path that a resolution gives in the server's files, "" for none.
func (r resolution) server() string {
	for _, one := range r.Resolved {
		if one.Scope == "server" {
			return one.Path
		}
	}
	return ""
}

func resolvePath(t testing.TB, s *target) {
	dir := folder(t, s)
	path := dir + "/a ü.txt"
	write(t, s, path, "x")
	if got := resolve(t, s, "path", path).server(); got != path {
		t.Errorf("%s is resolved to %q", path, got)
	}
	if got := resolve(t, s, "path", dir+"/none.txt").server(); got != "" {
		t.Errorf("a file that is not there is resolved to %q", got)
	}
	r := resolve(t, s, "path", path, "kernel", probe.ID())
	if r.server() != path || len(r.Unresolved) != 1 || r.Unresolved[0].Scope != "kernel" || r.Unresolved[0].Reason == "" {
		t.Errorf("with an unknown kernel: %+v", r)
	}
	if got := resolve(t, s, "path", path, "kernel", s.sharedKernel(t)).server(); got != path {
		t.Errorf("with a kernel: %q", got)
	}
	for _, outside := range []string{"/etc/passwd", "../home-secret/canary.txt", "/proc/self/environ", dir + "/../../etc/passwd"} {
		if got := resolve(t, s, "path", outside).server(); got != "" {
			t.Errorf("%s is resolved to %q", outside, got)
		}
	}
	s.Do(t, "GET", "api/resolvePath", nil).Want(t, 400)
	s.Do(t, "GET", probe.Query("api/resolvePath", "path", path), nil, probe.Anonymous).Want(t, 403)
}

func resolvePathRefuses(t testing.TB, s *target) {
	for _, query := range []string{
		"path=" + strings.Repeat("n", 8192), "path=%00", "path=a%00b", "path=%ff", "path=" + strings.Repeat("d/", 3000), "path=%5c%5cserver%5cshare",
		"path=" + strings.Repeat("n", 4096), "path=x&kernel=" + strings.Repeat("n", 4096), "path=x&kernel=%00", "path=~/../../etc/passwd",
	} {
		answer := s.Do(t, "GET", "api/resolvePath?"+query, nil)
		var r resolution
		switch answer.Status {
		case 200:
			if answer.Decode(t, &r); r.server() != "" {
				t.Errorf("%.60s is resolved to %q", query, r.server())
			}
		case 400:
		default:
			t.Errorf("%.60s answered %d, want 400 or nothing resolved: %.200s", query, answer.Status, answer.Body)
		}
	}
}
