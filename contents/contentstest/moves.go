package contentstest

import (
	"slices"

	"kernelgw/contents"
)

func testMoving(s *suite) {
	s.sentence("history, checkpoints and the creation time of a file go along", func(s *suite) {
		first := s.put("a.txt", "one")
		c := s.checkpoint("a.txt")
		s.put("a.txt", "two")
		e := s.move("a.txt", "b.txt")
		s.want("path", e.Path, "b.txt")
		s.want("content", s.read("b.txt", ""), "two")
		s.want("created", s.stat("b.txt").Created, first.Created)
		s.want("walk", s.walk(""), []string{"b.txt"})
		s.want("checkpoints", s.checkpoints("b.txt"), []string{c.ID})
		s.want("contents", s.history("b.txt"), []string{"two", "one"})
		if err := s.store.RestoreCheckpoint(s.ctx, s.workspace, "b.txt", c.ID, "ann"); err != nil {
			s.Fatal(err)
		}
		s.want("restored", s.read("b.txt", ""), "one")
	})
	s.sentence("history goes along twice, and to where another file was", func(s *suite) {
		s.put("b", "another")
		s.remove("b")
		s.put("a", "one")
		s.move("a", "b")
		s.put("b", "two")
		s.move("b", "c")
		s.put("c", "three")
		s.put("a", "new")
		s.want("contents of c", s.history("c"), []string{"three", "two", "one"})
		s.want("contents of a", s.history("a"), []string{"new"})
	})
	s.sentence("a directory moves with all below it", func(s *suite) {
		for _, p := range []string{"d/a", "d/e/b", "d/e/f/c", "dd/a"} {
			s.put(p, p, contents.PutOptions{Parents: true})
		}
		s.mkdir("d/empty")
		c := s.checkpoint("d/e/b")
		e := s.move("d", "x")
		if !e.Directory || e.Path != "x" {
			s.Errorf("got %+v, want the directory x", e)
		}
		s.want("walk", s.walk(""), []string{"dd/", "dd/a", "x/", "x/a", "x/e/", "x/e/b", "x/e/f/", "x/e/f/c", "x/empty/"})
		s.want("content", s.read("x/e/f/c", ""), "d/e/f/c")
		s.want("checkpoints", s.checkpoints("x/e/b"), []string{c.ID})
	})
	s.sentence("a move onto something fails and changes nothing", func(s *suite) {
		s.put("a", "a")
		s.put("b", "b")
		s.put("d/x", "x", contents.PutOptions{Parents: true})
		for _, to := range []string{"b", "d"} {
			_, err := s.store.Move(s.ctx, s.workspace, "a", to, "ann", contents.Match{})
			s.wantError("move a to "+to, err, contents.ErrExists)
		}
		_, err := s.store.Move(s.ctx, s.workspace, "d", "b", "ann", contents.Match{})
		s.wantError("move d to b", err, contents.ErrExists)
		s.want("walk", s.walk(""), []string{"a", "b", "d/", "d/x"})
		s.want("content", s.read("b", ""), "b")
	})
	s.sentence("a move of nothing, or to nowhere, fails", func(s *suite) {
		s.put("a", "a")
		_, err := s.store.Move(s.ctx, s.workspace, "nothing", "b", "ann", contents.Match{})
		s.wantError("from nothing", err, contents.ErrNotFound)
		_, err = s.store.Move(s.ctx, s.workspace, "a", "no/where", "ann", contents.Match{})
		s.wantError("to nowhere", err, contents.ErrNoParent)
		s.want("walk", s.walk(""), []string{"a"})
	})
	s.sentence("a move only if the file is what the caller saw", func(s *suite) {
		first := s.put("a", "one")
		second := s.put("a", "two", contents.PutOptions{Author: "bob"})
		s.mkdir("d")
		for what, c := range map[string]struct {
			path    string
			match   contents.Match
			current contents.Entry
		}{
			"an old etag":                 {"a", contents.Match{ETag: first.ETag}, second},
			"an old version":              {"a", contents.Match{Version: first.Version}, second},
			"a file that is gone":         {"gone", contents.Match{ETag: first.ETag}, contents.Entry{}},
			"a directory that was a file": {"d", contents.Match{ETag: first.ETag}, contents.Entry{}},
		} {
			_, err := s.store.Move(s.ctx, s.workspace, c.path, "moved", "ann", c.match)
			s.wantChanged("move of "+what, err, c.current)
			s.wantChanged("delete of "+what, s.store.Delete(s.ctx, s.workspace, c.path, "ann", c.match), c.current)
		}
		s.want("walk", s.walk(""), []string{"a", "d/"})
		if _, err := s.store.Move(s.ctx, s.workspace, "a", "b", "ann", contents.Match{ETag: second.ETag, Version: second.Version}); err != nil {
			s.Error(err)
		}
		s.want("walk after the move", s.walk(""), []string{"b", "d/"})
	})
	s.sentence("a directory does not move into itself", func(s *suite) {
		s.put("d/a", "a", contents.PutOptions{Parents: true})
		if _, err := s.store.Move(s.ctx, s.workspace, "d", "d/e", "ann", contents.Match{}); err == nil {
			s.Error("moved")
		}
		s.want("walk", s.walk(""), []string{"d/", "d/a"})
	})
	s.sentence("a name may change its case", func(s *suite) {
		s.put("a", "x")
		s.move("a", "A")
		s.want("walk", s.walk(""), []string{"A"})
	})
}

// history returns the contents of a file's versions, latest first, without those
// that only say that it was moved.
func (s *suite) history(path string) (found []string) {
	s.Helper()
	for _, v := range s.versions(path) {
		found = append(found, s.read(path, v.Entry.Version))
	}
	return slices.Compact(found)
}

func testCopying(s *suite) {
	s.sentence("the latest version of a file is copied", func(s *suite) {
		s.put("a", "one")
		s.put("a", "two", contents.PutOptions{Executable: true})
		e, err := s.store.Copy(s.ctx, s.workspace, "a", "b", "bob")
		if err != nil {
			s.Fatal(err)
		}
		s.want("path", e.Path, "b")
		s.want("author", e.Author, "bob")
		s.want("executable", s.stat("b").Executable, true)
		s.want("sha256", s.stat("b").SHA256, s.stat("a").SHA256)
		s.want("contents of b", s.history("b"), []string{"two"})
		s.put("b", "three")
		s.want("content of a", s.read("a", ""), "two")
	})
	s.sentence("a directory is copied with all below it", func(s *suite) {
		s.put("d/e/a", "x", contents.PutOptions{Parents: true})
		s.mkdir("d/empty")
		if _, err := s.store.Copy(s.ctx, s.workspace, "d", "x", "bob"); err != nil {
			s.Fatal(err)
		}
		s.want("walk", s.walk(""), []string{"d/", "d/e/", "d/e/a", "d/empty/", "x/", "x/e/", "x/e/a", "x/empty/"})
	})
	s.sentence("a copy onto something, of nothing or to nowhere fails", func(s *suite) {
		s.put("a", "a")
		s.put("b", "b")
		_, err := s.store.Copy(s.ctx, s.workspace, "a", "b", "bob")
		s.wantError("onto b", err, contents.ErrExists)
		_, err = s.store.Copy(s.ctx, s.workspace, "nothing", "c", "bob")
		s.wantError("of nothing", err, contents.ErrNotFound)
		_, err = s.store.Copy(s.ctx, s.workspace, "a", "no/where", "bob")
		s.wantError("to nowhere", err, contents.ErrNoParent)
		s.want("walk", s.walk(""), []string{"a", "b"})
	})
}

func testDeleting(s *suite) {
	s.sentence("a file goes to the trash", func(s *suite) {
		s.put("a", "hello")
		s.remove("a")
		_, err := s.store.Stat(s.ctx, s.workspace, "a")
		s.wantError("stat", err, contents.ErrNotFound)
		_, err = s.tryRead("a", "", 0, -1)
		s.wantError("open", err, contents.ErrNotFound)
		s.want("walk", s.walk(""), []string(nil))
		trash := s.trash()
		if len(trash) != 1 || trash[0].Path != "a" || trash[0].Size != 5 || trash[0].ID == "" || trash[0].Deleted.IsZero() {
			s.Errorf("trash: %+v", trash)
		}
	})
	s.sentence("a directory goes with all below it", func(s *suite) {
		for _, p := range []string{"d/a", "d/e/b", "dd"} {
			s.put(p, p, contents.PutOptions{Parents: true})
		}
		s.mkdir("d/empty")
		s.remove("d")
		s.want("walk", s.walk(""), []string{"dd"})
		var paths []string
		for _, one := range s.trash() {
			paths = append(paths, one.Path)
		}
		slices.Sort(paths)
		s.want("trash", paths, []string{"d/a", "d/e/b"})
	})
	s.sentence("an empty directory goes", func(s *suite) {
		s.mkdir("d/e")
		s.remove("d/e")
		s.want("walk", s.walk(""), []string{"d/"})
	})
	s.sentence("nothing cannot be deleted, nor deleted twice", func(s *suite) {
		s.wantError("nothing", s.store.Delete(s.ctx, s.workspace, "a", "ann", contents.Match{}), contents.ErrNotFound)
		s.put("a", "x")
		s.remove("a")
		s.wantError("again", s.store.Delete(s.ctx, s.workspace, "a", "ann", contents.Match{}), contents.ErrNotFound)
	})
	s.sentence("a new file in the place of a deleted one is new", func(s *suite) {
		s.put("a", "one")
		s.checkpoint("a")
		s.remove("a")
		s.put("a", "two")
		s.want("checkpoints", s.checkpoints("a"), []string(nil))
		s.want("latest", s.versions("a")[0].Latest, true)
		s.want("content", s.read("a", ""), "two")
	})
}

func testTrash(s *suite) {
	s.sentence("a file comes back", func(s *suite) {
		s.put("d/a", "one", contents.PutOptions{Parents: true})
		s.put("d/a", "two")
		s.remove("d")
		e, err := s.store.Undelete(s.ctx, s.workspace, s.trash()[0].ID)
		if err != nil {
			s.Fatal(err)
		}
		s.want("path", e.Path, "d/a")
		s.want("content", s.read("d/a", ""), "two")
		s.want("walk", s.walk(""), []string{"d/", "d/a"})
		s.want("trash", len(s.trash()), 0)
	})
	s.sentence("a file does not come back over another", func(s *suite) {
		s.put("a", "one")
		s.remove("a")
		id := s.trash()[0].ID
		s.put("a", "two")
		_, err := s.store.Undelete(s.ctx, s.workspace, id)
		s.wantError("undelete", err, contents.ErrExists)
		s.want("content", s.read("a", ""), "two")
		s.want("trash", len(s.trash()), 1)
	})
	s.sentence("the trash is newest first, and keeps each deletion of one path", func(s *suite) {
		for _, content := range []string{"1", "22", "333"} {
			s.put("a", content)
			s.remove("a")
		}
		var sizes []int64
		for _, one := range s.trash() {
			sizes = append(sizes, one.Size)
		}
		s.want("sizes", sizes, []int64{3, 2, 1})
	})
	s.sentence("a page of the trash follows the one before, also when that was emptied", func(s *suite) {
		for i := range 3 {
			s.put("a"+number(i), "x")
			s.remove("a" + number(i))
		}
		s.put("d/1", "x", contents.PutOptions{Parents: true})
		s.put("d/2", "x")
		s.put("d/3", "x")
		s.remove("d")
		want := s.trash()
		s.want("in the trash", len(want), 6)
		var got []contents.Trashed
		after := ""
		for {
			list, err := s.store.Trash(s.ctx, s.workspace, after, 2)
			if err != nil || len(list) > 2 {
				s.Fatalf("got %d entries after %q, %v, want at most 2", len(list), after, err)
			}
			if len(list) == 0 {
				break
			}
			got = append(got, list...)
			after = list[len(list)-1].ID
			for _, one := range list {
				if err := s.store.Purge(s.ctx, s.workspace, one.ID); err != nil {
					s.Fatal(err)
				}
			}
		}
		s.want("all pages", got, want)
		_, err := s.store.Trash(s.ctx, s.workspace, "no id of an entry", 2)
		s.wantError("after what is no id", err, contents.ErrNotFound)
	})
	s.sentence("what is purged is gone", func(s *suite) {
		s.put("a", "x")
		s.put("b", "x")
		s.put("c", "x")
		s.remove("a")
		s.remove("b")
		s.remove("c")
		id := s.trash()[0].ID
		if err := s.store.Purge(s.ctx, s.workspace, id); err != nil {
			s.Fatal(err)
		}
		s.wantError("again", s.store.Purge(s.ctx, s.workspace, id), contents.ErrNotFound)
		_, err := s.store.Undelete(s.ctx, s.workspace, id)
		s.wantError("undelete", err, contents.ErrNotFound)
		s.want("trash", len(s.trash()), 2)
		s.put("kept", "x")
		if err := s.store.Purge(s.ctx, s.workspace, ""); err != nil {
			s.Fatal(err)
		}
		s.want("trash", len(s.trash()), 0)
		s.want("kept", s.read("kept", ""), "x")
	})
}
