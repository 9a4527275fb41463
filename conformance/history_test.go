package conformance

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"kernelgw/conformance/probe"
)

// What becomes of files that are changed and deleted: beyond Jupyter's protocol.
var historyChecks = []check{
	{name: "VersionsAreListedLatestFirstAndReadable", run: versionsListed, extension: noHistory},
	{name: "VersionsFollowARename", run: versionsFollowRename, extension: noHistory},
	{name: "VersionIsRestoredAsANewOne", run: versionRestored, extension: noHistory},
	{name: "VersionIsRemovedForGood", run: versionRemoved, extension: noHistory},
	{name: "VersionsOfTextAreCompared", run: textCompared, extension: noHistory},
	{name: "VersionsOfANotebookAreComparedByCell", run: notebookCompared, extension: noHistory},
	{name: "TrashBringsFilesBack", run: trashBringsBack, extension: noHistory},
	{name: "TrashBringsADirectoryBack", run: trashBringsDirectoryBack, extension: noHistory},
	{name: "UsageCountsOldVersions", run: usageCounts, extension: noHistory},
	{name: "FiftyWritersLoseNoVersion", run: fiftyWriters, extension: noHistory},
	{name: "HistoryOfHostileNamesIs4xx", run: hostileHistory, extension: noHistory},
}

var noHistory = &extension{because: "it keeps no history", fails: "GET v1/workspaces answered 404"}

// native is the address of the default workspace in the native API.
func native(t testing.TB, s *target) string {
	t.Helper()
	var list []struct{ Name string }
	s.Do(t, "GET", "v1/workspaces", nil).Want(t, 200).Decode(t, &list)
	if len(list) == 0 || list[0].Name == "" {
		t.Fatalf("the workspaces are %+v", list)
	}
	return "v1/workspaces/" + escape(list[0].Name) + "/"
}

type fileVersion struct {
	ID, Path, Author, Source, SHA256, ETag string
	Size                                   int64
	Modified                               time.Time
	Latest, Pinned                         bool
}

func versions(t testing.TB, s *target, path string) []fileVersion {
	t.Helper()
	var answer struct{ Versions []fileVersion }
	s.Do(t, "GET", native(t, s)+filesAt(path)+"/versions", nil).Want(t, 200).Decode(t, &answer)
	for i, v := range answer.Versions {
		if v.ID == "" || v.ETag == "" || v.Author == "" || time.Since(v.Modified) > time.Hour || v.Latest != (i == 0) {
			t.Errorf("version %d of %s is %+v", i, path, v)
		}
	}
	return answer.Versions
}

func versionAt(t testing.TB, s *target, path, id string) string {
	t.Helper()
	return native(t, s) + filesAt(path) + "/versions/" + escape(id)
}

// displayName is as whom the target's token writes.
func displayName(t testing.TB, s *target) string {
	t.Helper()
	var me struct {
		Identity struct {
			Name string `json:"display_name"`
		}
	}
	s.Do(t, "GET", "api/me", nil).Want(t, 200).Decode(t, &me)
	return me.Identity.Name
}

func hashOf(content string) string {
	sum := sha256.Sum256([]byte(content))
	return hex.EncodeToString(sum[:])
}

func versionsListed(t testing.TB, s *target) {
	native(t, s)
	path := folder(t, s) + "/a \"b\" ü%.txt"
	texts := []string{"first", "the second", "third\n"}
	for _, text := range texts {
		write(t, s, path, text)
	}
	list := versions(t, s, path)
	if len(list) != len(texts) {
		t.Fatalf("%d versions are listed of %d", len(list), len(texts))
	}
	author := displayName(t, s)
	for i, v := range list {
		text := texts[len(texts)-1-i]
		if v.Path != path || v.Size != int64(len(text)) || v.SHA256 != hashOf(text) || v.Author != author || v.Source != "api" {
			t.Errorf("the version of %q is %+v, of author %q", text, v, author)
		}
		if got := s.Do(t, "GET", versionAt(t, s, path, v.ID), nil).Want(t, 200); string(got.Body) != text {
			t.Errorf("version %s is %q, want %q", v.ID, got.Body, text)
		} else if policy := got.Header.Get("Content-Security-Policy"); !strings.Contains(policy, "sandbox") {
			t.Errorf("an old version may run as the server's page: %q", policy)
		}
	}
	var short struct{ Versions []fileVersion }
	s.Do(t, "GET", native(t, s)+filesAt(path)+"/versions?limit=2", nil).Want(t, 200).Decode(t, &short)
	if len(short.Versions) != 2 || short.Versions[0].ID != list[0].ID {
		t.Errorf("the latest two are %+v", short.Versions)
	}
	s.Do(t, "GET", versionAt(t, s, path, "no-such-version"), nil).Want(t, 404)
	s.Do(t, "GET", native(t, s)+filesAt(path+"x")+"/versions", nil).Want(t, 404)
	s.Do(t, "GET", native(t, s)+filesAt(path)+"/versions", nil, probe.Anonymous).Want(t, 403)
}

func versionsFollowRename(t testing.TB, s *target) {
	native(t, s)
	dir := folder(t, s)
	write(t, s, dir+"/a.txt", "one")
	write(t, s, dir+"/a.txt", "two")
	old := versions(t, s, dir+"/a.txt")[1]
	patch(t, s, dir+"/a.txt", dir+"/b.txt").Want(t, 200)
	write(t, s, dir+"/b.txt", "three")
	list := versions(t, s, dir+"/b.txt")
	for _, want := range []string{"one", "two", "three"} {
		if !slices.ContainsFunc(list, func(v fileVersion) bool {
			return v.SHA256 == hashOf(want) && string(s.Do(t, "GET", versionAt(t, s, dir+"/b.txt", v.ID), nil).Want(t, 200).Body) == want
		}) {
			t.Errorf("after the rename %q is in none of %+v", want, list)
		}
	}
	s.Do(t, "POST", versionAt(t, s, dir+"/b.txt", old.ID)+"/restore", nil).Want(t, 200)
	if got := read(t, s, dir+"/b.txt", "").text(t); got != "one" {
		t.Errorf("a version from before the rename is restored as %q", got)
	}
}

func versionRestored(t testing.TB, s *target) {
	native(t, s)
	path := folder(t, s) + "/a.txt"
	write(t, s, path, "first")
	write(t, s, path, "second")
	first := versions(t, s, path)[1]
	s.Do(t, "POST", versionAt(t, s, path, first.ID)+"/restore", nil).Want(t, 200)
	if got := read(t, s, path, "").text(t); got != "first" {
		t.Errorf("after the restore the file is %q", got)
	}
	list := versions(t, s, path)
	if len(list) != 3 || list[0].Source != "restore" || list[0].SHA256 != first.SHA256 || list[2].ID != first.ID {
		t.Errorf("after the restore the versions are %+v", list)
	}
	s.Do(t, "POST", versionAt(t, s, path, "no-such-version")+"/restore", nil).Want(t, 404)
	cookies := login(t, s)
	s.Do(t, "POST", versionAt(t, s, path, list[1].ID)+"/restore", nil, probe.WithCookies(cookies)).Want(t, 403)
	if got := read(t, s, path, "").text(t); got != "first" {
		t.Errorf("after refused restores the file is %q", got)
	}
}

func versionRemoved(t testing.TB, s *target) {
	native(t, s)
	path := folder(t, s) + "/a.txt"
	write(t, s, path, "secret")
	makeCheckpoint(t, s, path)
	write(t, s, path, "leaked")
	write(t, s, path, "public")
	list := versions(t, s, path)
	s.Do(t, "DELETE", versionAt(t, s, path, list[0].ID), nil).Want(t, 409) // the latest
	s.Do(t, "DELETE", versionAt(t, s, path, list[2].ID), nil).Want(t, 409) // a checkpoint's
	s.Do(t, "DELETE", versionAt(t, s, path, list[1].ID), nil).Want(t, 204)
	s.Do(t, "DELETE", versionAt(t, s, path, list[1].ID), nil).Want(t, 404)
	s.Do(t, "GET", versionAt(t, s, path, list[1].ID), nil).Want(t, 404)
	if left := versions(t, s, path); len(left) != 2 || !left[1].Pinned {
		t.Errorf("the versions are %+v", left)
	}
	if got := read(t, s, path, "").text(t); got != "public" {
		t.Errorf("the file is %q", got)
	}
}

func textCompared(t testing.TB, s *target) {
	native(t, s)
	path := folder(t, s) + "/a.txt"
	write(t, s, path, "one\ntwo\nthree\n")
	write(t, s, path, "one\nzwei\nthree\n")
	write(t, s, path, "one\nzwei\nthree\nvier\n")
	list := versions(t, s, path)
	for query, want := range map[string]string{
		"":                    "+vier\n",
		"?from=" + list[2].ID: "\n-two\n+zwei\n three\n+vier\n",
		"?to=" + list[1].ID:   "\n-two\n+zwei\n three\n",
		"?from=" + list[0].ID + "&to=" + list[1].ID: "\n-vier\n",
	} {
		var diff struct {
			Kind, Unified string
			Same          bool
		}
		s.Do(t, "GET", native(t, s)+filesAt(path)+"/diff"+query, nil).Want(t, 200).Decode(t, &diff)
		if diff.Kind != "text" || diff.Same || !strings.Contains(diff.Unified, want) {
			t.Errorf("diff%s is %+v, want %q", query, diff, want)
		}
	}
	s.Do(t, "GET", native(t, s)+filesAt(path)+"/diff?from=none", nil).Want(t, 404)
	s.Do(t, "GET", native(t, s)+filesAt(path)+"/diff?to="+list[2].ID, nil).Want(t, 404) // nothing was before
}

func notebookCompared(t testing.TB, s *target) {
	native(t, s)
	path := folder(t, s) + "/n.ipynb"
	for _, source := range []string{"1 + 1", "1 + 2"} {
		put(t, s, path, map[string]any{"type": "notebook", "format": "json", "content": notebook(source, "<b>same</b>")}).Want(t, 200, 201)
	}
	var diff struct {
		Kind            string
		MetadataChanged bool `json:"metadata_changed"`
		Cells           []struct {
			Change, ID     string
			OutputsChanged bool `json:"outputs_changed"`
		}
	}
	answer := s.Do(t, "GET", native(t, s)+filesAt(path)+"/diff", nil).Want(t, 200)
	answer.Decode(t, &diff)
	if diff.Kind != "notebook" || diff.MetadataChanged || len(diff.Cells) != 1 || diff.Cells[0].Change != "modified" || diff.Cells[0].ID != "a1" || diff.Cells[0].OutputsChanged {
		t.Errorf("the diff is %s", answer.Body)
	}
	for _, source := range []string{"1 + 1", "1 + 2"} {
		if !bytes.Contains(answer.Body, []byte(source)) {
			t.Errorf("the diff does not show %q: %s", source, answer.Body)
		}
	}
}

type trashEntry struct {
	ID, Path, Author string
	Size             int64
	Deleted          time.Time
}

// trashed returns what the trash has of a directory.
func trashed(t testing.TB, s *target, dir string) (list []trashEntry) {
	t.Helper()
	var answer struct{ Trash []trashEntry }
	s.Do(t, "GET", native(t, s)+"trash", nil).Want(t, 200).Decode(t, &answer)
	for _, one := range answer.Trash {
		if strings.HasPrefix(one.Path, dir+"/") {
			list = append(list, one)
		}
	}
	return list
}

func undelete(t testing.TB, s *target, id string) *probe.Answer {
	t.Helper()
	return s.Do(t, "POST", native(t, s)+"trash/"+escape(id)+"/restore", nil)
}

func trashBringsBack(t testing.TB, s *target) {
	native(t, s)
	dir := folder(t, s)
	path := dir + "/a 'b' ü.txt"
	write(t, s, path, "old")
	write(t, s, path, "kept")
	s.Do(t, "DELETE", contentsAt(path), nil).Want(t, 204)
	list := trashed(t, s, dir)
	if len(list) != 1 || list[0].Path != path || list[0].Size != 4 || list[0].Author != displayName(t, s) || time.Since(list[0].Deleted) > time.Hour {
		t.Fatalf("the trash holds %+v", list)
	}
	write(t, s, path, "in its place")
	undelete(t, s, list[0].ID).Want(t, 409)
	if got := read(t, s, path, "").text(t); got != "in its place" {
		t.Errorf("what is in its place became %q", got)
	}
	s.Do(t, "DELETE", contentsAt(path), nil).Want(t, 204)
	undelete(t, s, list[0].ID).Want(t, 200)
	if got := read(t, s, path, "").text(t); got != "kept" {
		t.Errorf("the file came back as %q", got)
	}
	if list := versions(t, s, path); !slices.ContainsFunc(list, func(v fileVersion) bool { return v.SHA256 == hashOf("old") }) {
		t.Errorf("its older version did not come back: %+v", list)
	}
	undelete(t, s, list[0].ID).Want(t, 404)
	for _, one := range trashed(t, s, dir) {
		s.Do(t, "DELETE", native(t, s)+"trash/"+escape(one.ID), nil).Want(t, 204)
		undelete(t, s, one.ID).Want(t, 404)
	}
	if left := trashed(t, s, dir); len(left) != 0 {
		t.Errorf("the trash still holds %+v", left)
	}
	s.Do(t, "DELETE", native(t, s)+"trash", nil).Want(t, 400) // all of it only when that is said
}

func trashBringsDirectoryBack(t testing.TB, s *target) {
	native(t, s)
	dir := folder(t, s)
	put(t, s, dir+"/sub", map[string]any{"type": "directory"}).Want(t, 201)
	put(t, s, dir+"/sub/deep", map[string]any{"type": "directory"}).Want(t, 201)
	for _, name := range []string{"/sub/a.txt", "/sub/deep/b.txt"} {
		write(t, s, dir+name, "content of "+name)
	}
	s.Do(t, "DELETE", contentsAt(dir+"/sub"), nil).Want(t, 204)
	s.Do(t, "GET", contentsAt(dir+"/sub"), nil).Want(t, 404)
	for _, one := range trashed(t, s, dir) {
		undelete(t, s, one.ID).Want(t, 200)
	}
	for _, name := range []string{"/sub/a.txt", "/sub/deep/b.txt"} {
		if got := read(t, s, dir+name, "").text(t); got != "content of "+name {
			t.Errorf("%s came back as %q", name, got)
		}
	}
}

func usageCounts(t testing.TB, s *target) {
	type usage struct {
		Used  int64
		Limit *int64
	}
	used := func() (u usage) {
		s.Do(t, "GET", native(t, s)+"usage", nil).Want(t, 200).Decode(t, &u)
		return u
	}
	before := used()
	path := folder(t, s) + "/a.bin"
	for i := range 3 {
		upload(t, s, path, bytes.Repeat([]byte{byte(i)}, 1<<20))
	}
	after := used()
	if after.Used-before.Used < 3<<20 {
		t.Errorf("three versions of 1 MiB make %d bytes of %d", after.Used, before.Used)
	}
	if after.Limit != nil && *after.Limit <= 0 {
		t.Errorf("the limit is %d", *after.Limit)
	}
}

// Every save that was acknowledged is a version, whoever saved in between.
func fiftyWriters(t testing.TB, s *target) {
	native(t, s)
	path := folder(t, s) + "/a.txt"
	const writers = 50
	var mu sync.Mutex
	saved := map[string]bool{}
	var all sync.WaitGroup
	for i := range writers {
		all.Go(func() {
			text := fmt.Sprintf("writer %d %s", i, strings.Repeat("x", i*100))
			answer, err := s.Try(t, "PUT", contentsAt(path), map[string]any{"type": "file", "format": "text", "content": text})
			switch {
			case err != nil:
				t.Errorf("writer %d: %v", i, err)
			case answer.Status == 200 || answer.Status == 201:
				mu.Lock()
				saved[text] = true
				mu.Unlock()
			default: // refused is not lost, but nobody was in the way here
				t.Errorf("writer %d got %d: %.200s", i, answer.Status, answer.Body)
			}
		})
	}
	all.Wait()
	kept := map[string]bool{}
	for _, v := range versions(t, s, path) {
		kept[v.SHA256] = true
		if got := hashOf(string(s.Do(t, "GET", versionAt(t, s, path, v.ID), nil).Want(t, 200).Body)); got != v.SHA256 {
			t.Errorf("version %s has the content %s, and says %s", v.ID, got, v.SHA256)
		}
	}
	for text := range saved {
		if !kept[hashOf(text)] {
			t.Errorf("the save of %.20q was acknowledged and is lost", text)
		}
	}
	if len(kept) != writers {
		t.Errorf("%d writers made %d versions", writers, len(kept))
	}
	if got := read(t, s, path, "").text(t); !saved[got] {
		t.Errorf("the file is %.40q, which nobody saved", got)
	}
}

func hostileHistory(t testing.TB, s *target) {
	base := native(t, s)
	dir := folder(t, s)
	write(t, s, dir+"/a.txt", "kept")
	names := []string{
		strings.Repeat("n", 4096), strings.Repeat("%c3%a9", 2048), strings.Repeat("d/", 2048) + "a.txt", "..%2f..%2fhome-secret%2fcanary.txt",
		"%00", "%ff", "a%5cb", "%0a", "%2e%2e", ".ssh/id_rsa", "%22%27%3Cb%3E", "%e2%98%83", "a%2525", "%7F",
	}
	for _, name := range names {
		at := base + "files/" + dir + "/" + name
		for _, r := range [][2]string{
			{"GET", at + "/versions"},
			{"GET", at + "/versions/x"},
			{"DELETE", at + "/versions/x"},
			{"POST", at + "/versions/x/restore"},
			{"GET", at + "/diff"},
			{"GET", base + "files/" + dir + "/a.txt/versions/" + name},
			{"DELETE", base + "files/" + dir + "/a.txt/versions/" + name},
			{"GET", base + "files/" + dir + "/a.txt/diff?from=" + name},
			{"DELETE", base + "trash/" + name},
			{"POST", base + "trash/" + name + "/restore"},
		} {
			if answer := s.Do(t, r[0], r[1], nil); answer.Status != 400 && answer.Status != 404 && answer.Status != 405 {
				t.Errorf("%s %.120s answered %d: %.200s", r[0], r[1], answer.Status, answer.Body)
			}
		}
	}
	if got := read(t, s, dir+"/a.txt", "").text(t); got != "kept" {
		t.Errorf("the file is now %q", got)
	}
}
