package contentstest

import (
	"regexp"
	"slices"
	"strings"

	"kernelgw/contents"
)

func testVersions(s *suite) {
	s.sentence("every write is a version, latest first", func(s *suite) {
		var put []contents.Entry
		for _, content := range []string{"one", "two", "three"} {
			put = append(put, s.put("a", content, contents.PutOptions{Author: "ann-" + content, Source: "sync"}))
		}
		list := s.versions("a")
		if len(list) != 3 {
			s.Fatalf("got %d versions, want 3", len(list))
		}
		for i, v := range list {
			want := put[2-i]
			if v.Entry.Version != want.Version || v.Author != want.Author || v.Size != want.Size || v.Source != "sync" || v.Path != "a" {
				s.Errorf("version %d: got %+v, want %+v", i, v, want)
			}
			s.want("latest", v.Latest, i == 0)
			s.want("pinned", v.Pinned, false)
		}
		s.want("contents", s.history("a"), []string{"three", "two", "one"})
	})
	s.sentence("a page of versions follows the one before", func(s *suite) {
		var want []string
		for i := range 5 {
			want = append(want, s.put("a", number(i)).Version)
		}
		slices.Reverse(want)
		var got []string
		after := ""
		for {
			list, err := s.store.Versions(s.ctx, s.workspace, "a", after, 2)
			if err != nil || len(list) > 2 {
				s.Fatalf("got %d versions after %q, %v, want at most 2", len(list), after, err)
			}
			if len(list) == 0 {
				break
			}
			for _, v := range list {
				s.want("latest", v.Latest, len(got) == 0)
				s.want("has a hash", v.SHA256 != "", true)
				got = append(got, v.Entry.Version)
			}
			after = list[len(list)-1].Entry.Version
		}
		s.want("versions", got, want)
		_, err := s.store.Versions(s.ctx, s.workspace, "a", "no-such-version", 2)
		s.wantError("after an unknown version", err, contents.ErrNotFound)
	})
	s.sentence("a write of the same content is a version", func(s *suite) {
		first := s.put("a", "x")
		second := s.put("a", "x")
		if first.Version == second.Version {
			s.Error("both have one version id")
		}
		s.want("versions", len(s.versions("a")), 2)
	})
	s.sentence("names that begin alike have versions of their own", func(s *suite) {
		s.put("a", "x")
		s.put("a2", "x")
		s.put("a.txt", "x")
		s.want("versions", len(s.versions("a")), 1)
	})
	s.sentence("a restored version is a new one", func(s *suite) {
		first := s.put("a", "one", contents.PutOptions{Executable: true})
		s.put("a", "two")
		e, err := s.store.Restore(s.ctx, s.workspace, "a", first.Version, "bob")
		if err != nil {
			s.Fatal(err)
		}
		s.want("content", s.read("a", ""), "one")
		s.want("sha256", e.SHA256, first.SHA256)
		s.want("executable", s.stat("a").Executable, true)
		list := s.versions("a")
		s.want("versions", len(list), 3)
		s.want("source", list[0].Source, "restore")
		s.want("author", list[0].Author, "bob")
		_, err = s.store.Restore(s.ctx, s.workspace, "a", "no-such-version", "bob")
		s.wantError("an unknown version", err, contents.ErrNotFound)
	})
	s.sentence("an old version goes for good and frees its bytes", func(s *suite) {
		first := s.put("a", strings.Repeat("0123456789", 1000))
		second := s.put("a", "two")
		before := s.used()
		s.wantError("the latest", s.store.DeleteVersion(s.ctx, s.workspace, "a", second.Version), contents.ErrExists)
		if err := s.store.DeleteVersion(s.ctx, s.workspace, "a", first.Version); err != nil {
			s.Fatal(err)
		}
		s.want("freed", before-s.used(), int64(10_000))
		s.want("contents", s.history("a"), []string{"two"})
		s.wantError("again", s.store.DeleteVersion(s.ctx, s.workspace, "a", first.Version), contents.ErrNotFound)
	})
	s.sentence("a pinned version stays", func(s *suite) {
		first := s.put("a", "one")
		c := s.checkpoint("a")
		s.put("a", "two")
		s.want("pinned", s.versions("a")[1].Pinned, true)
		s.wantError("delete", s.store.DeleteVersion(s.ctx, s.workspace, "a", first.Version), contents.ErrExists)
		if err := s.store.DeleteCheckpoint(s.ctx, s.workspace, "a", c.ID); err != nil {
			s.Fatal(err)
		}
		if err := s.store.DeleteVersion(s.ctx, s.workspace, "a", first.Version); err != nil {
			s.Error(err)
		}
	})
}

func testCheckpoints(s *suite) {
	s.sentence("a file without any, no file, and a directory have none", func(s *suite) {
		s.put("a", "x")
		s.mkdir("d")
		for _, p := range []string{"a", "nothing", "d"} {
			s.want(p, s.checkpoints(p), []string(nil))
		}
	})
	s.sentence("oldest first, with ids that fit into a URL", func(s *suite) {
		var ids []string
		for _, content := range []string{"1", "2", "3"} {
			s.put("a", content)
			c := s.checkpoint("a")
			if !regexp.MustCompile(`^[A-Za-z0-9_-]+$`).MatchString(c.ID) {
				s.Errorf("id %q", c.ID)
			}
			if c.At.IsZero() || c.At.Nanosecond() != 0 {
				s.Errorf("made at %v, want whole seconds", c.At)
			}
			s.want("version", c.Version, s.stat("a").Version)
			ids = append(ids, c.ID)
		}
		s.want("ids", s.checkpoints("a"), ids)
	})
	s.sentence("a restored checkpoint is the latest version, and nothing is lost", func(s *suite) {
		s.put("a", "one")
		c := s.checkpoint("a")
		s.put("a", "two")
		if err := s.store.RestoreCheckpoint(s.ctx, s.workspace, "a", c.ID, "bob"); err != nil {
			s.Fatal(err)
		}
		s.want("content", s.read("a", ""), "one")
		s.want("contents", s.history("a"), []string{"one", "two", "one"})
		s.want("checkpoints", s.checkpoints("a"), []string{c.ID})
	})
	s.sentence("only so many are kept, the newest", func(s *suite) {
		s.put("a", "x")
		var ids []string
		for range 64 {
			ids = append(ids, s.checkpoint("a").ID)
		}
		kept := s.checkpoints("a")
		if len(kept) == 0 || len(kept) >= len(ids) {
			s.Fatalf("%d of %d are kept", len(kept), len(ids))
		}
		s.want("kept", kept, ids[len(ids)-len(kept):])
	})
	s.sentence("a deleted one is gone", func(s *suite) {
		s.put("a", "x")
		first, second := s.checkpoint("a"), s.checkpoint("a")
		if err := s.store.DeleteCheckpoint(s.ctx, s.workspace, "a", first.ID); err != nil {
			s.Fatal(err)
		}
		s.want("left", s.checkpoints("a"), []string{second.ID})
		s.wantError("delete again", s.store.DeleteCheckpoint(s.ctx, s.workspace, "a", first.ID), contents.ErrNotFound)
		s.wantError("restore", s.store.RestoreCheckpoint(s.ctx, s.workspace, "a", first.ID, "ann"), contents.ErrNotFound)
	})
	s.sentence("there is nothing to pin without a file", func(s *suite) {
		_, err := s.store.MakeCheckpoint(s.ctx, s.workspace, "nothing", "ann", "")
		s.wantError("make", err, contents.ErrNotFound)
		s.mkdir("d")
		_, err = s.store.MakeCheckpoint(s.ctx, s.workspace, "d", "ann", "")
		s.wantError("of a directory", err, contents.ErrIsDirectory)
	})
	s.sentence("one survives the deletion of its file and its return", func(s *suite) {
		s.put("a", "one")
		c := s.checkpoint("a")
		s.put("a", "two")
		s.remove("a")
		if _, err := s.store.Undelete(s.ctx, s.workspace, s.trash()[0].ID); err != nil {
			s.Fatal(err)
		}
		if got := s.checkpoints("a"); !slices.Equal(got, []string{c.ID}) {
			s.Errorf("checkpoints: got %v, want %s", got, c.ID)
		}
	})
}

// quotaLimit is what a workspace may hold in the tests of quotas.
const quotaLimit = 100_000

func testQuota(s *suite) {
	s.sentence("a write over the limit fails, old versions and trash count", func(s *suite) {
		full := string(make([]byte, 40_000))
		s.put("a", full)
		s.put("a", full)
		used, limit, err := s.store.Usage(s.ctx, s.workspace)
		if err != nil || used != 80_000 || limit != quotaLimit {
			s.Errorf("usage: got %d of %d, %v, want 80000 of %d", used, limit, err, quotaLimit)
		}
		s.wantQuota(s.tryPut("a", full, contents.PutOptions{}), 80_000)
		s.want("versions", len(s.versions("a")), 2)
		s.remove("a")
		s.wantQuota(s.tryPut("b", full, contents.PutOptions{}), 80_000)
		if err := s.store.Purge(s.ctx, s.workspace, ""); err != nil {
			s.Fatal(err)
		}
		s.want("used after a purge", s.used(), int64(0))
		s.put("b", full)
	})
	s.sentence("a copy and a restore over the limit fail", func(s *suite) {
		first := s.put("a", string(make([]byte, 60_000)))
		_, err := s.store.Copy(s.ctx, s.workspace, "a", "b", "ann")
		s.wantQuota(err, 60_000)
		_, err = s.store.Restore(s.ctx, s.workspace, "a", first.Version, "ann")
		s.wantQuota(err, 60_000)
		s.want("walk", s.walk(""), []string{"a"})
	})
	s.sentence("an empty version and a directory are not free", func(s *suite) {
		s.mkdir("d/e")
		s.put("d/e/empty", "")
		s.put("d/e/empty", "small")
		s.want("used", s.used(), 4*contents.Charge(0))
		s.move("d", "f")
		s.want("used after a move", s.used(), 4*contents.Charge(0))
		if _, err := s.store.Copy(s.ctx, s.workspace, "f", "g", "ann"); err != nil {
			s.Fatal(err)
		}
		s.want("used after a copy", s.used(), 7*contents.Charge(0))
		s.remove("g")
		s.want("used after a delete", s.used(), 5*contents.Charge(0))
		if err := s.store.Purge(s.ctx, s.workspace, ""); err != nil {
			s.Fatal(err)
		}
		s.want("used after a purge", s.used(), 4*contents.Charge(0))
	})
	s.sentence("empty files fill a workspace", func(s *suite) {
		full := quotaLimit / contents.Charge(0)
		for i := range full {
			s.put("f"+number(int(i)), "")
		}
		s.wantQuota(s.tryPut("more", "", contents.PutOptions{}), full*contents.Charge(0))
		s.wantQuota(s.tryPut("f00000", "", contents.PutOptions{}), full*contents.Charge(0))
	})
	s.sentence("empty directories fill a workspace", func(s *suite) {
		full := quotaLimit / contents.Charge(0)
		for i := range full {
			s.mkdir("d" + number(int(i)))
		}
		_, _, err := s.store.MakeDirectory(s.ctx, s.workspace, "more")
		s.wantQuota(err, full*contents.Charge(0))
		_, err = s.store.Copy(s.ctx, s.workspace, "d00000", "copy", "ann")
		s.wantQuota(err, full*contents.Charge(0))
		s.move("d00000", "renamed") // what holds all that it may is still put in order
		s.want("used", s.used(), full*contents.Charge(0))
		s.remove("renamed")
		s.mkdir("more")
	})
}
