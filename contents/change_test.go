package contents_test

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"

	"kernelgw/contents"
	"kernelgw/contents/contentstest"
)

func TestUntitledNames(t *testing.T) {
	s := serve(t)
	s.mkdir("d")
	for _, c := range []struct{ body, want string }{
		{`{}`, "untitled"},
		{``, "untitled1"},
		{`{"type":"file","ext":".txt"}`, "untitled.txt"},
		{`{"type":"file","ext":".txt"}`, "untitled1.txt"},
		{`{"ext":".tar.gz"}`, "untitled.tar.gz"},
		{`{"ext":".tar.gz"}`, "untitled1.tar.gz"},
		{`{"type":"notebook"}`, "Untitled.ipynb"},
		{`{"ext":".ipynb"}`, "Untitled1.ipynb"},
		{`{"type":"directory"}`, "Untitled Folder"},
		{`{"type":"directory"}`, "Untitled Folder 1"},
		{`{"type":"strange"}`, "untitled2"},
	} {
		a := s.api("POST", "d", c.body).want(201).wantField("path", "d/"+c.want).wantField("content", nil)
		if got, want := a.header.Get("Location"), "/base/api/contents/d/"+strings.ReplaceAll(c.want, " ", "%20"); got != want {
			t.Errorf("Location %q, want %q", got, want)
		}
	}
	for range 30 {
		s.api("POST", "", `{"type":"directory"}`).want(201)
	}
	s.api("GET", "Untitled Folder 29", nil).want(200)
	s.put("f", "x")
	s.api("POST", "f", `{}`).want(400)
	s.api("POST", "nothing", `{}`).want(404)
	s.api("POST", "d", `{"ext":"/../x"}`).want(400)
	s.api("POST", "d", `{"ext":"`+strings.Repeat("x", 300)+`"}`).want(400)
}

func TestCopies(t *testing.T) {
	s := serve(t)
	s.mkdir("e")
	for _, p := range []string{"d/a.txt", "d/n.ipynb", "d/x.tar.gz", "d/noext", "d/my.note.ipynb", "d/a-Copy2.txt", "my.dir/x"} {
		s.put(p, p)
	}
	for _, c := range []struct{ to, from, want string }{
		{"d", "d/a.txt", "d/a-Copy1.txt"},
		{"d", "d/a.txt", "d/a-Copy3.txt"},
		{"d", "d/n.ipynb", "d/n-Copy1.ipynb"},
		{"d", "d/x.tar.gz", "d/x-Copy1.tar.gz"},
		{"d", "d/noext", "d/noext-Copy1"},
		{"d", "d/my.note.ipynb", "d/my.note-Copy1.ipynb"},
		{"d", "d/a-Copy2.txt", "d/a-Copy4.txt"},
		{"e", "d/a.txt", "e/a.txt"},
		{"e", "/d/a.txt", "e/a-Copy1.txt"},
		{"e/full.txt", "d/a.txt", "e/full.txt"},
		{"", "my.dir", "my.dir-Copy1"},
		{"e", "my.dir", "e/my.dir"},
	} {
		a := s.api("POST", c.to, map[string]any{"copy_from": c.from}).want(201).wantField("path", c.want)
		if a.header.Get("Location") == "" {
			t.Errorf("%s: no Location", c.want)
		}
	}
	if got := s.stored("e/my.dir/x"); got != "my.dir/x" {
		t.Errorf("copied %q", got)
	}
	for _, c := range []struct {
		to, from string
		status   int
	}{{"d", "nothing", 404}, {"no/where", "d/a.txt", 404}, {"d/a.txt", "d/n.ipynb", 400}, {"d", ".hidden", 400}, {".x", "d/a.txt", 400}, {"d", "../a", 404}, {"d", "/", 400}} {
		s.api("POST", c.to, map[string]any{"copy_from": c.from}).want(c.status)
	}
	s.store.FailNext("Copy", 1, contents.ErrTooLarge)
	s.api("POST", "e", `{"copy_from":"d"}`).want(400).wantMessage("too large")
}

func TestRenames(t *testing.T) {
	s := serve(t)
	s.put("a.txt", "a")
	s.put("b.txt", "b")
	s.put("d/x", "x")
	s.api("POST", "a.txt/checkpoints", nil).want(201)
	a := s.api("PATCH", "a.txt", `{"path":"c d.txt"}`).want(200).wantField("path", "c d.txt").wantField("name", "c d.txt")
	if got := a.header.Get("Location"); got != "/base/api/contents/c%20d.txt" {
		t.Errorf("Location %q", got)
	}
	if got := string(s.api("GET", "c d.txt/checkpoints", nil).want(200).body); got == "[]" {
		t.Error("the checkpoint stayed behind")
	}
	s.api("PATCH", "c d.txt", `{"path":"b.txt"}`).want(409).wantMessage("File already exists")
	s.api("PATCH", "c d.txt", `{"path":"/c d.txt"}`).want(200)
	s.api("PATCH", "c d.txt", `{}`).want(200).wantField("path", "c d.txt")
	s.api("PATCH", "c d.txt", ``).want(400)
	s.api("PATCH", "nothing", `{"path":"x"}`).want(404)
	s.api("PATCH", "nothing", `{}`).want(404)
	s.api("PATCH", "c d.txt", `{"path":"no/where"}`).want(404)
	s.api("PATCH", "c d.txt", `{"path":".hidden"}`).want(400)
	s.api("PATCH", "c d.txt", `{"path":"../x"}`).want(404)
	s.api("PATCH", "d", `{"path":"e"}`).want(200).wantField("type", "directory")
	s.api("PATCH", "e", `{"path":"e/f"}`).want(400)
	s.api("PATCH", "", `{"path":"root"}`).want(400)
	s.store.FailNext("Move", 1, contents.ErrBusy)
	s.api("PATCH", "b.txt", `{"path":"x"}`).want(409).wantMessage("try again")
	if want := []string{"rename c d.txt a.txt", "rename e d"}; !slices.Equal(s.observed, want) {
		t.Errorf("observed %q, want %q", s.observed, want)
	}
}

func TestDeletes(t *testing.T) {
	s := serve(t)
	s.put("a.txt", "a")
	s.put("d/x", "x")
	s.put(".hidden", "x")
	s.api("DELETE", "a.txt", nil).want(204)
	s.api("DELETE", "a.txt", nil).want(404)
	s.api("DELETE", "d", nil).want(204)
	s.api("DELETE", "", nil).want(400)
	s.api("DELETE", ".hidden", nil).want(400)
	trash, _ := s.do("GET", "/v1/trash", nil).want(200).field("trash").([]any)
	if len(trash) != 2 {
		t.Fatalf("trash: %v", trash)
	}
	entry, _ := trash[0].(map[string]any)
	id, _ := entry["id"].(string)
	if entry["path"] != "d/x" || entry["author"] != "ann" || entry["size"] != 1.0 {
		t.Errorf("trash: %v", entry)
	}
	s.put("d/x", "other")
	s.do("POST", "/v1/trash/"+id+"/restore", nil).want(409)
	s.api("DELETE", "d/x", nil).want(204)
	s.do("POST", "/v1/trash/"+id+"/restore", nil).want(200).wantField("path", "d/x")
	s.do("POST", "/v1/trash/"+id+"/restore", nil).want(404)
	s.do("DELETE", "/v1/trash/"+id, nil).want(404)
	s.do("DELETE", "/v1/trash", nil).want(400)
	s.do("DELETE", "/v1/trash?all=1", nil).want(204)
	s.do("GET", "/v1/trash", nil).want(200).wantField("trash", []any{})
}

func TestCheckpoints(t *testing.T) {
	s := serve(t)
	s.put("a b.txt", "one")
	for _, path := range []string{"nothing", "d", "a b.txt", ".hidden", ""} {
		if got := string(s.api("GET", path+"/checkpoints", nil).want(200).body); got != "[]" {
			t.Errorf("%s: %s", path, got)
		}
	}
	a := s.api("POST", "a b.txt/checkpoints", nil).want(201)
	id, _ := a.field("id").(string)
	if got := a.header.Get("Location"); got != "/base/api/contents/a%20b.txt/checkpoints/"+id {
		t.Errorf("Location %q", got)
	}
	s.put("a b.txt", "two")
	s.api("POST", "a b.txt/checkpoints/"+id, nil).want(204)
	if got := s.stored("a b.txt"); got != "one" {
		t.Errorf("restored %q", got)
	}
	s.api("DELETE", "a b.txt/checkpoints/"+id, nil).want(204)
	s.api("DELETE", "a b.txt/checkpoints/"+id, nil).want(404)
	s.api("POST", "a b.txt/checkpoints/"+id, nil).want(404).wantMessage("checkpoint")
	s.api("POST", "nothing/checkpoints", nil).want(404)
	s.mkdir("d")
	s.api("POST", "d/checkpoints", nil).want(400)
}

func TestConditionsAre412AndSayWhoAndWhen(t *testing.T) {
	s := serve(t)
	s.put("a.txt", "one")
	etag := s.api("GET", "a.txt?content=0", nil).header.Get("ETag")
	changed := s.put("a.txt", "two")
	for _, c := range []struct{ method, body string }{{"PUT", `{"type":"file","format":"text","content":"x"}`}, {"PATCH", `{"path":"b.txt"}`}, {"DELETE", ""}} {
		for _, match := range []string{etag, `"v:no-such-version"`} {
			s.api(c.method, "a.txt", c.body, "If-Match", match).want(412).wantMessage("by bob at "+changed.Modified.Format("2006-01-02")).wantField("reason", "changed")
		}
		s.api(c.method, "nothing", c.body, "If-Match", etag).want(412).wantMessage("deleted meanwhile")
		s.api(c.method, "nothing", c.body, "If-Match", "*").want(412)
		s.api(c.method, "a.txt", c.body, "If-Match", "bad").want(400)
	}
	s.api("PUT", "a.txt", file("text", "x"), "If-None-Match", "*").want(412).wantMessage("bob")
	s.api("PUT", "a.txt", file("text", "x"), "If-None-Match", etag).want(400)
	s.api("PUT", "new.txt", file("text", "x"), "If-None-Match", "*").want(201)
	etag = s.api("PUT", "a.txt", file("text", "three"), "If-Match", `"v:`+changed.Version+`"`).want(200).header.Get("ETag")
	etag = s.api("PUT", "a.txt", file("text", "four"), "If-Match", etag).want(200).header.Get("ETag")
	s.api("PATCH", "a.txt", `{"path":"b.txt"}`, "If-Match", etag).want(200)
	s.api("DELETE", "b.txt", nil, "If-Match", etag).want(204)
	s.mkdir("d")
	s.api("DELETE", "d", nil, "If-Match", etag).want(412).wantMessage("a directory")
	s.api("PATCH", "d", `{"path":"e"}`, "If-Match", etag).want(412).wantMessage("a directory")
	s.api("PATCH", "d", `{"path":"e"}`, "If-Match", "*").want(200)
	s.api("DELETE", "e", nil, "If-Match", "*").want(204)
}

// The store is asked to look once more: what is there may be another file since.
func TestAFileThatBecameADirectoryIsNotDeletedForIt(t *testing.T) {
	s := serve(t)
	etag := `"` + s.put("data", "x").ETag + `"`
	for method, body := range map[string]any{"DELETE": nil, "PATCH": `{"path":"moved"}`} {
		s.put("mine/kept", "x")
		move := func(from, to string) {
			if _, err := s.store.Move(t.Context(), "w", from, to, "eve", contents.Match{}); err != nil {
				t.Error(err)
			}
		}
		swap := raced{Fake: s.store, between: func() { move("data", "aside"); move("mine", "data") }}
		other := serve(t, func(o *contents.Options) { o.Store = &swap })
		other.api(method, "data", body, "If-Match", etag).want(412).wantMessage("a directory")
		if got := s.stored("data/kept"); got != "x" {
			t.Errorf("after %s data/kept holds %q", method, got)
		}
		move("data", "mine")
		move("aside", "data")
	}
}

// raced is a store in which something happens after a look at a file.
type raced struct {
	*contentstest.Fake
	between func()
	once    sync.Once
}

func (r *raced) Stat(ctx context.Context, workspace, path string) (contents.Entry, error) {
	e, err := r.Fake.Stat(ctx, workspace, path)
	r.once.Do(r.between)
	return e, err
}

func TestAWriteBetweenTheCheckAndTheSaveIsNotLost(t *testing.T) {
	s := serve(t)
	e := s.put("a.txt", "one")
	s.store.FailNext("Put", 1, &contents.ChangedError{Current: contents.Entry{ETag: "x", Author: "eve", Modified: e.Modified}})
	s.api("PUT", "a.txt", file("text", "x"), "If-Match", `"`+e.ETag+`"`).want(412).wantMessage("by eve")
}
