package contentstest

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"slices"
	"strings"
	"time"

	"kernelgw/contents"
)

func testReading(s *suite) {
	s.sentence("a file has every field", func(s *suite) {
		before := time.Now().UTC().Add(-2 * time.Second)
		e := s.put("a.txt", "hello", contents.PutOptions{Author: "ann", Executable: true})
		sum := sha256.Sum256([]byte("hello"))
		s.want("path", e.Path, "a.txt")
		s.want("size", e.Size, int64(5))
		s.want("sha256", e.SHA256, hex.EncodeToString(sum[:]))
		s.want("author", e.Author, "ann")
		s.want("executable", e.Executable, true)
		if e.ETag == "" || e.Version == "" {
			s.Errorf("etag %q and version %q: want both", e.ETag, e.Version)
		}
		for name, at := range map[string]time.Time{"modified": e.Modified, "created": e.Created} {
			if at.Before(before) || at.After(time.Now().Add(2*time.Second)) || at.Nanosecond() != 0 || at.Location() != time.UTC {
				s.Errorf("%s is %v: want whole seconds of now in UTC", name, at)
			}
		}
		s.want("stat after put", s.stat("a.txt"), e)
		body, opened, err := s.store.Open(s.ctx, s.workspace, "a.txt", "", 0, -1)
		if err != nil {
			s.Fatal(err)
		}
		defer body.Close()
		s.want("entry of open", opened, e)
	})
	s.sentence("content from an offset, n bytes of it or all", func(s *suite) {
		s.put("a.txt", "0123456789")
		for _, c := range []struct {
			offset, n int64
			want      string
		}{{0, -1, "0123456789"}, {3, 4, "3456"}, {3, -1, "3456789"}, {8, 100, "89"}, {9, 1, "9"}} {
			got, err := s.tryRead("a.txt", "", c.offset, c.n)
			if err != nil || got != c.want {
				s.Errorf("%d bytes from %d: got %q, %v, want %q", c.n, c.offset, got, err, c.want)
			}
		}
	})
	s.sentence("an empty file is a file", func(s *suite) {
		s.put("empty", "")
		s.want("content", s.read("empty", ""), "")
		s.want("is a directory", s.stat("empty").Directory, false)
		s.want("listed", s.paths(""), []string{"empty"})
	})
	s.sentence("the root of an unknown workspace is an empty directory", func(s *suite) {
		e := s.stat("")
		s.want("is a directory", e.Directory, true)
		s.want("path", e.Path, "")
		s.want("listed", s.paths(""), []string(nil))
	})
	s.sentence("an unknown path is not found", func(s *suite) {
		s.put("a", "x")
		_, err := s.store.Stat(s.ctx, s.workspace, "nothing")
		s.wantError("stat", err, contents.ErrNotFound)
		_, err = s.store.Stat(s.ctx, s.workspace, "a/below")
		s.wantError("stat below a file", err, contents.ErrNotFound)
		_, err = s.store.List(s.ctx, s.workspace, "nothing")
		s.wantError("list", err, contents.ErrNotFound)
		err = s.store.Walk(s.ctx, s.workspace, "nothing", func(contents.Entry) error { return nil })
		s.wantError("walk", err, contents.ErrNotFound)
		_, err = s.tryRead("nothing", "", 0, -1)
		s.wantError("open", err, contents.ErrNotFound)
		_, err = s.tryRead("a", "no-such-version", 0, -1)
		s.wantError("open an unknown version", err, contents.ErrNotFound)
		_, err = s.store.Versions(s.ctx, s.workspace, "nothing", "", 0)
		s.wantError("versions", err, contents.ErrNotFound)
	})
	s.sentence("a directory is no file and a file no directory", func(s *suite) {
		s.mkdir("d")
		s.put("a", "x")
		_, err := s.tryRead("d", "", 0, -1)
		s.wantError("open a directory", err, contents.ErrIsDirectory)
		_, err = s.store.List(s.ctx, s.workspace, "a")
		s.wantError("list a file", err, contents.ErrNotDirectory)
	})
	s.sentence("workspaces do not see each other", func(s *suite) {
		s.put("a", "x")
		_, err := s.store.Stat(s.ctx, s.workspace+"x", "a")
		s.wantError("stat in a workspace whose name begins alike", err, contents.ErrNotFound)
		list, err := s.store.List(s.ctx, s.workspace+"x", "")
		if err != nil || len(list) != 0 {
			s.Errorf("list: got %v, %v, want nothing", list, err)
		}
	})
}

func testWriting(s *suite) {
	s.sentence("what was put is read back", func(s *suite) {
		large := strings.Repeat("0123456789abcdef", 1<<18) // 4 MiB
		s.put("large", large)
		if got := s.read("large", ""); got != large {
			s.Errorf("got %d bytes that differ from the %d bytes put", len(got), len(large))
		}
	})
	s.sentence("the body is read from its start", func(s *suite) {
		body := strings.NewReader("hello")
		if _, err := body.Seek(3, io.SeekStart); err != nil {
			s.Fatal(err)
		}
		if _, err := s.store.Put(s.ctx, s.workspace, "a", body, contents.PutOptions{}); err != nil {
			s.Fatal(err)
		}
		s.want("content", s.read("a", ""), "hello")
	})
	s.sentence("a write replaces, and keeps the creation time", func(s *suite) {
		first := s.put("a", "one", contents.PutOptions{Author: "ann"})
		second := s.put("a", "two", contents.PutOptions{Author: "bob"})
		s.want("content", s.read("a", ""), "two")
		s.want("created", second.Created, first.Created)
		s.want("author", s.stat("a").Author, "bob")
		if first.Version == second.Version || first.ETag == second.ETag {
			s.Errorf("versions %q and %q, etags %q and %q: want new ones", first.Version, second.Version, first.ETag, second.ETag)
		}
	})
	s.sentence("a write to a directory fails", func(s *suite) {
		s.mkdir("d")
		s.wantError("put to d", s.tryPut("d", "x", contents.PutOptions{}), contents.ErrIsDirectory)
		s.wantError("put to the root", s.tryPut("", "x", contents.PutOptions{}), contents.ErrIsDirectory)
	})
	s.sentence("a missing parent is made only when asked for", func(s *suite) {
		s.wantError("put", s.tryPut("d/e/a", "x", contents.PutOptions{}), contents.ErrNoParent)
		s.put("d/e/a", "x", contents.PutOptions{Parents: true})
		s.want("walk", s.walk(""), []string{"d/", "d/e/", "d/e/a"})
	})
	s.sentence("a file in the place of a parent is not a directory", func(s *suite) {
		s.put("a", "x")
		s.wantError("put", s.tryPut("a/b", "x", contents.PutOptions{Parents: true}), contents.ErrNotDirectory)
		_, _, err := s.store.MakeDirectory(s.ctx, s.workspace, "a/b")
		s.wantError("make directory", err, contents.ErrNotDirectory)
		s.want("content of what was in the way", s.read("a", ""), "x")
	})
}

func testConditions(s *suite) {
	s.sentence("a write only if the file has this etag", func(s *suite) {
		first := s.put("a", "one", contents.PutOptions{Author: "ann"})
		second := s.put("a", "two", contents.PutOptions{Author: "bob", IfMatch: first.ETag})
		s.wantChanged("put with an old etag", s.tryPut("a", "three", contents.PutOptions{IfMatch: first.ETag}), second)
		s.want("content", s.read("a", ""), "two")
	})
	s.sentence("a write only if the file is at this version", func(s *suite) {
		first := s.put("a", "one", contents.PutOptions{Author: "ann"})
		s.put("a", "two")
		back := s.put("a", "one", contents.PutOptions{Author: "bob"})
		s.wantChanged("put to a version whose content is back", s.tryPut("a", "x", contents.PutOptions{IfVersion: first.Version}), back)
		s.put("a", "three", contents.PutOptions{IfVersion: back.Version})
		s.want("content", s.read("a", ""), "three")
	})
	s.sentence("a write only if there is no file", func(s *suite) {
		first := s.put("a", "one", contents.PutOptions{Author: "ann", IfNone: true})
		s.wantChanged("put again", s.tryPut("a", "two", contents.PutOptions{IfNone: true}), first)
		s.remove("a")
		s.put("a", "three", contents.PutOptions{IfNone: true})
		s.want("content after a delete", s.read("a", ""), "three")
	})
	s.sentence("a condition on a file that is gone", func(s *suite) {
		first := s.put("a", "one")
		s.remove("a")
		s.wantChanged("put with an etag", s.tryPut("a", "two", contents.PutOptions{IfMatch: first.ETag}), contents.Entry{})
		s.wantChanged("put with a version", s.tryPut("a", "two", contents.PutOptions{IfVersion: first.Version}), contents.Entry{})
		_, err := s.store.Stat(s.ctx, s.workspace, "a")
		s.wantError("stat", err, contents.ErrNotFound)
	})
	s.sentence("a delete only if the file has this etag", func(s *suite) {
		first := s.put("a", "one")
		second := s.put("a", "two", contents.PutOptions{Author: "bob"})
		s.wantChanged("delete with an old etag", s.store.Delete(s.ctx, s.workspace, "a", "ann", contents.Match{ETag: first.ETag}), second)
		s.want("content", s.read("a", ""), "two")
		if err := s.store.Delete(s.ctx, s.workspace, "a", "ann", contents.Match{ETag: second.ETag}); err != nil {
			s.Error(err)
		}
	})
}

func testDirectories(s *suite) {
	s.sentence("a directory is made with its parents, once", func(s *suite) {
		e, created, err := s.store.MakeDirectory(s.ctx, s.workspace, "a/b/c")
		if err != nil || !created || !e.Directory || e.Path != "a/b/c" {
			s.Errorf("got %+v, created %v, error %v", e, created, err)
		}
		_, created, err = s.store.MakeDirectory(s.ctx, s.workspace, "a/b")
		if err != nil || created {
			s.Errorf("again: created %v, error %v, want neither", created, err)
		}
		_, created, err = s.store.MakeDirectory(s.ctx, s.workspace, "")
		if err != nil || created {
			s.Errorf("the root: created %v, error %v, want neither", created, err)
		}
		s.want("walk", s.walk(""), []string{"a/", "a/b/", "a/b/c/"})
		s.put("file", "x")
		_, _, err = s.store.MakeDirectory(s.ctx, s.workspace, "file")
		s.wantError("in the place of a file", err, contents.ErrNotDirectory)
	})
	s.sentence("a listing is sorted, shows hidden entries and nothing deeper", func(s *suite) {
		for _, p := range []string{"b.txt", "a b", "B", ".hidden", "a.txt"} {
			s.put(p, "x")
		}
		s.put("a/deep/er", "x", contents.PutOptions{Parents: true})
		s.mkdir("a-empty")
		s.want("list", s.paths(""), []string{".hidden", "B", "a/", "a b", "a-empty/", "a.txt", "b.txt"})
		s.want("list of a", s.paths("a"), []string{"a/deep/"})
		list, err := s.store.List(s.ctx, s.workspace, "")
		if err != nil {
			s.Fatal(err)
		}
		for _, e := range list {
			if e.Directory {
				continue
			}
			stat := s.stat(e.Path)
			if e.Size != stat.Size || !e.Modified.Equal(stat.Modified) || e.ETag != stat.ETag {
				s.Errorf("listed %+v, stat %+v: size, time and etag must be the same", e, stat)
			}
		}
	})
	s.sentence("more than a page of a listing", func(s *suite) {
		const n = 1100
		s.mkdir("d")
		parallel(n, func(i int) {
			if err := s.tryPut("d/"+number(i), "x", contents.PutOptions{}); err != nil {
				s.Error(err)
			}
		})
		got := s.paths("d")
		s.want("length", len(got), n)
		s.want("sorted", slices.IsSorted(got), true)
		s.want("walked", len(s.walk("d")), n)
	})
	s.sentence("a walk shows files in order and a directory before what it holds", func(s *suite) {
		for _, p := range []string{"b/c/d", "b/a", "b.txt", "a", "c/.hidden/x"} {
			s.put(p, "x", contents.PutOptions{Parents: true})
		}
		s.mkdir("b/empty")
		var files []string
		seen := map[string]bool{"": true}
		err := s.store.Walk(s.ctx, s.workspace, "", func(e contents.Entry) error {
			if !seen[contents.Parent(e.Path)] {
				s.Errorf("%s came before its directory", e.Path)
			}
			if seen[e.Path] {
				s.Errorf("%s came twice", e.Path)
			}
			seen[e.Path] = true
			if !e.Directory {
				files = append(files, e.Path)
			}
			return nil
		})
		if err != nil {
			s.Fatal(err)
		}
		s.want("files", files, []string{"a", "b.txt", "b/a", "b/c/d", "c/.hidden/x"})
		s.want("all", s.walk(""), []string{"a", "b.txt", "b/", "b/a", "b/c/", "b/c/d", "b/empty/", "c/", "c/.hidden/", "c/.hidden/x"})
		s.want("below b", s.walk("b"), []string{"b/a", "b/c/", "b/c/d", "b/empty/"})
	})
	s.sentence("an error of each ends the walk", func(s *suite) {
		s.put("a", "x")
		s.put("b", "x")
		enough, calls := errors.New("enough"), 0
		err := s.store.Walk(s.ctx, s.workspace, "", func(contents.Entry) error { calls++; return enough })
		s.wantError("walk", err, enough)
		s.want("calls", calls, 1)
	})
	s.sentence("a directory stays when its last file goes", func(s *suite) {
		s.put("d/a", "x", contents.PutOptions{Parents: true})
		s.remove("d/a")
		s.want("walk", s.walk(""), []string{"d/"})
		s.want("is a directory", s.stat("d").Directory, true)
	})
	s.sentence("a file may be where a directory was, and the reverse", func(s *suite) {
		s.put("data", "file")
		s.remove("data")
		s.put("data/a", "x", contents.PutOptions{Parents: true})
		s.want("walk", s.walk(""), []string{"data/", "data/a"})
		s.remove("data")
		s.want("walk after delete", s.walk(""), []string(nil))
		s.put("data", "again")
		s.want("content", s.read("data", ""), "again")
		s.want("is a directory", s.stat("data").Directory, false)
	})
}

func testNames(s *suite) {
	for _, name := range []string{
		"naïve café.txt", "日本語.ipynb", "😀", "a b  c", " leading", "trailing ", "trailing.", "quote\"'`", "%2e%2e", "%2F", "a%b",
		"q?x=1&y", "#hash", "+plus+", "semi;colon", "c:olon", "<script>", "*", "~", "...", "a..b", "[x]{y}", "-rf", "$(id)", "e\u0301", "\u00e9",
		strings.Repeat("n", contents.MaxNameBytes),
	} {
		s.sentence("name "+name[:min(len(name), 24)], func(s *suite) {
			clean, err := contents.Clean(name)
			if err != nil || clean != name {
				s.Fatalf("not clean: %q, %v", clean, err)
			}
			s.put("d/"+name, name, contents.PutOptions{Parents: true})
			s.want("content", s.read("d/"+name, ""), name)
			s.want("listed", s.paths("d"), []string{"d/" + name})
			s.mkdir("e/" + name)
			s.move("d/"+name, "e/"+name+"/moved")
			s.want("moved", s.read("e/"+name+"/moved", ""), name)
			s.want("walk", s.walk("e"), []string{"e/" + name + "/", "e/" + name + "/moved"})
		})
	}
	s.sentence("the longest path", func(s *suite) {
		long := strings.Repeat(strings.Repeat("p", 200)+"/", 4)
		long += strings.Repeat("p", contents.MaxPathBytes-len(long))
		s.put(long, "x", contents.PutOptions{Parents: true})
		s.want("content", s.read(long, ""), "x")
		s.remove(long)
		trash := s.trash()
		if len(trash) != 1 || trash[0].Path != long {
			s.Fatalf("trash: %+v", trash)
		}
		if _, err := s.store.Undelete(s.ctx, s.workspace, trash[0].ID); err != nil {
			s.Error(err)
		}
	})
}
