package conformance

import (
	"fmt"
	"regexp"
	"testing"

	"kernelgw/conformance/probe"
)

var checkpointChecks = []check{
	{name: "CheckpointsOfNothingAreNone", run: checkpointsOfNothing},
	{name: "CheckpointRestores", run: checkpointRestores},
	{name: "CheckpointIsDeleted", run: checkpointDeleted},
	{name: "CheckpointSurvivesARename", run: checkpointSurvivesRename},
	{name: "CheckpointSurvivesARenameOfItsDirectory", run: checkpointSurvivesRenameOfDirectory},
	{
		name: "CheckpointsAreManyAndOldestFirst", run: checkpointsOldestFirst,
		extension: &extension{because: "it keeps one", fails: "checkpoints are listed"},
	},
	{
		name: "CheckpointUnknownIs404", run: checkpointUnknown,
		extension: &extension{because: "it answers 500", fails: "answered 500"},
	},
}

type checkpoint struct {
	ID           string `json:"id"`
	LastModified string `json:"last_modified"`
}

var checkpointID = regexp.MustCompile(`^[\w-]+$`)

func checkpoints(t testing.TB, s *target, path string) []checkpoint {
	t.Helper()
	var list []checkpoint
	s.Do(t, "GET", contentsAt(path)+"/checkpoints?1795502306591", nil).Want(t, 200).Decode(t, &list)
	if list == nil {
		t.Errorf("the checkpoints of %s are null, want a list", path)
	}
	for _, c := range list {
		if !checkpointID.MatchString(c.ID) || c.LastModified == "" {
			t.Errorf("a checkpoint of %s is %+v", path, c)
		}
	}
	return list
}

func makeCheckpoint(t testing.TB, s *target, path string) checkpoint {
	t.Helper()
	answer := s.Do(t, "POST", contentsAt(path)+"/checkpoints", nil).Want(t, 201)
	var c checkpoint
	answer.Decode(t, &c)
	if !checkpointID.MatchString(c.ID) || c.LastModified == "" {
		t.Errorf("the new checkpoint is %s", answer.Body)
	}
	wantLocation(t, answer, path+"/checkpoints/"+c.ID)
	return c
}

func restore(t testing.TB, s *target, path, id string) *probe.Answer {
	t.Helper()
	return s.Do(t, "POST", contentsAt(path)+"/checkpoints/"+id, nil)
}

func checkpointsOfNothing(t testing.TB, s *target) {
	dir := folder(t, s)
	if got := checkpoints(t, s, dir+"/none.txt"); len(got) != 0 {
		t.Errorf("a file that is not there has checkpoints: %v", got)
	}
	write(t, s, dir+"/a.txt", "x")
	if got := checkpoints(t, s, dir+"/a.txt"); len(got) != 0 {
		t.Errorf("a new text file has checkpoints: %v", got)
	}
}

func checkpointRestores(t testing.TB, s *target) {
	dir := folder(t, s)
	path := dir + "/a \"b\" ü.txt"
	write(t, s, path, "first")
	c := makeCheckpoint(t, s, path)
	write(t, s, path, "second")
	restore(t, s, path, c.ID).Want(t, 204)
	if got := read(t, s, path, "").text(t); got != "first" {
		t.Errorf("after the restore the file is %q", got)
	}
	if got := checkpoints(t, s, path); len(got) != 1 || got[0].ID != c.ID {
		t.Errorf("after the restore the checkpoints are %v", got)
	}
	book := notebook("before", "x")
	put(t, s, dir+"/n.ipynb", map[string]any{"type": "notebook", "format": "json", "content": book}).Want(t, 201)
	c = makeCheckpoint(t, s, dir+"/n.ipynb")
	put(t, s, dir+"/n.ipynb", map[string]any{"type": "notebook", "format": "json", "content": notebook("after", "x")}).Want(t, 200)
	restore(t, s, dir+"/n.ipynb", c.ID).Want(t, 204)
	if got := codeCell(t, read(t, s, dir+"/n.ipynb", "")).Source; got != "before" {
		t.Errorf("after the restore the cell is %q", got)
	}
}

func checkpointDeleted(t testing.TB, s *target) {
	dir := folder(t, s)
	write(t, s, dir+"/a.txt", "x")
	c := makeCheckpoint(t, s, dir+"/a.txt")
	s.Do(t, "DELETE", contentsAt(dir+"/a.txt")+"/checkpoints/"+c.ID, nil).Want(t, 204)
	if got := checkpoints(t, s, dir+"/a.txt"); len(got) != 0 {
		t.Errorf("the deleted checkpoint is listed: %v", got)
	}
	s.Do(t, "DELETE", contentsAt(dir+"/a.txt")+"/checkpoints/"+c.ID, nil).Want(t, 404)
	read(t, s, dir+"/a.txt", "")
}

func checkpointSurvivesRename(t testing.TB, s *target) {
	dir := folder(t, s)
	write(t, s, dir+"/a.txt", "first")
	c := makeCheckpoint(t, s, dir+"/a.txt")
	write(t, s, dir+"/a.txt", "second")
	patch(t, s, dir+"/a.txt", dir+"/b.txt").Want(t, 200)
	if got := checkpoints(t, s, dir+"/b.txt"); len(got) != 1 || got[0] != c {
		t.Fatalf("after the rename the checkpoints are %v, want %v", got, c)
	}
	if got := checkpoints(t, s, dir+"/a.txt"); len(got) != 0 {
		t.Errorf("the old name has checkpoints: %v", got)
	}
	restore(t, s, dir+"/b.txt", c.ID).Want(t, 204)
	if got := read(t, s, dir+"/b.txt", "").text(t); got != "first" {
		t.Errorf("after the restore the file is %q", got)
	}
}

func checkpointSurvivesRenameOfDirectory(t testing.TB, s *target) {
	dir := folder(t, s)
	put(t, s, dir+"/sub", map[string]any{"type": "directory"}).Want(t, 201)
	write(t, s, dir+"/sub/a.txt", "first")
	c := makeCheckpoint(t, s, dir+"/sub/a.txt")
	write(t, s, dir+"/sub/a.txt", "second")
	patch(t, s, dir+"/sub", dir+"/moved").Want(t, 200)
	restore(t, s, dir+"/moved/a.txt", c.ID).Want(t, 204)
	if got := read(t, s, dir+"/moved/a.txt", "").text(t); got != "first" {
		t.Errorf("after the restore the file is %q", got)
	}
}

func checkpointsOldestFirst(t testing.TB, s *target) {
	path := folder(t, s) + "/a.txt"
	var made []string
	for i := range 3 {
		write(t, s, path, fmt.Sprint("text ", i))
		made = append(made, makeCheckpoint(t, s, path).ID)
	}
	var listed []string
	for _, c := range checkpoints(t, s, path) {
		listed = append(listed, c.ID)
	}
	if fmt.Sprint(listed) != fmt.Sprint(made) {
		t.Fatalf("the checkpoints are listed as %v, made as %v", listed, made)
	}
	for _, i := range []int{1, 0, 2} {
		restore(t, s, path, made[i]).Want(t, 204)
		if got := read(t, s, path, "").text(t); got != fmt.Sprint("text ", i) {
			t.Errorf("checkpoint %d brings %q", i, got)
		}
	}
}

func checkpointUnknown(t testing.TB, s *target) {
	dir := folder(t, s)
	write(t, s, dir+"/a.txt", "kept")
	restore(t, s, dir+"/a.txt", "no-such-id").Want(t, 404)
	restore(t, s, dir+"/none.txt", "no-such-id").Want(t, 404)
	s.Do(t, "POST", contentsAt(dir)+"/checkpoints", nil).Want(t, 400, 404)
	s.Do(t, "POST", contentsAt(dir+"/none.txt")+"/checkpoints", nil).Want(t, 404)
	if got := read(t, s, dir+"/a.txt", "").text(t); got != "kept" {
		t.Errorf("the file is %q", got)
	}
}
