package conformance

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"

	"kernelgw/conformance/probe"
)

// Saving, creating, renaming and deleting files.
var changeChecks = []check{
	{name: "ContentsSaveCreatesThenReplaces", run: saveCreatesThenReplaces},
	{name: "ContentsSaveRefusesWhatItCannotStore", run: saveRefuses},
	{
		name: "ContentsSaveRefusesNonsense", run: saveRefusesNonsense,
		extension: &extension{because: "it answers 500, or saves something", fails: "answered (200|404|500)"},
	},
	{
		name: "ContentsSaveWithoutParentSaysSo", run: saveWithoutParent,
		extension: &extension{because: "it answers 500", fails: "answered 500"},
	},
	{name: "ContentsEmptyNotebookAndFile", run: saveEmpty},
	{name: "ContentsSavedNotebookGetsACheckpoint", run: savedNotebookGetsCheckpoint},
	{name: "ContentsChunkedUpload", run: chunkedUpload},
	{name: "ContentsChunkedUploadStartsAnew", run: chunkedUploadStartsAnew},
	{name: "ContentsChunksAreOfFilesOnly", run: chunksAreOfFilesOnly},
	{
		name: "ContentsHalfAnUploadIsNotSeen", run: halfAnUpload,
		extension: &extension{because: "it writes each chunk in place, and a failed upload has overwritten the file", fails: "is seen"},
	},
	{name: "ContentsUntitledNames", run: untitledNames},
	{name: "ContentsCopyNames", run: copyNames},
	{name: "ContentsCopyIntoAnotherDirectory", run: copyElsewhere},
	{name: "ContentsCopyOfADirectory", run: copyDirectory},
	{name: "ContentsCopyRefusals", run: copyRefusals},
	{name: "ContentsRename", run: rename},
	{name: "ContentsRenameOntoAFileIs409", run: renameOntoAFile},
	{name: "ContentsRenameRefusals", run: renameRefusals},
	{name: "ContentsRenameOfADirectory", run: renameDirectory},
	{
		name: "ContentsRenameOfADirectoryIntoItselfIsRefused", run: renameIntoItself,
		extension: &extension{because: "it answers 500", fails: "answered 500"},
	},
	{name: "ContentsDelete", run: deletes},
	{name: "ContentsHiddenFilesAreNotThere", run: hiddenFiles},
	{name: "ContentsNamesComeBackAsTheyWere", run: strangeNames},
	{name: "ContentsReadsSeeTheLastWrite", run: readsSeeTheLastWrite},
}

func wantLocation(t testing.TB, answer *probe.Answer, path string) {
	t.Helper()
	location := answer.Header.Get("Location")
	if decoded, err := url.PathUnescape(location); err != nil || !strings.HasSuffix(decoded, "/api/contents/"+path) {
		t.Errorf("Location is %q, want that of %s", location, path)
	}
}

func saveCreatesThenReplaces(t testing.TB, s *target) {
	dir := folder(t, s)
	body := map[string]any{"type": "file", "format": "text", "content": "one", "name": "a.txt", "path": dir + "/a.txt"}
	answer := put(t, s, dir+"/a.txt", body).Want(t, 201)
	wantLocation(t, answer, dir+"/a.txt")
	m := fileModel(t, answer)
	if string(m.Content) != "null" || m.Path != dir+"/a.txt" || *m.Size != 3 {
		t.Errorf("the answer to a save is %+v", m)
	}
	body["content"] = "second"
	put(t, s, dir+"/a.txt", body).Want(t, 200)
	if m := read(t, s, dir+"/a.txt", ""); m.text(t) != "second" || m.Created > m.LastModified {
		t.Errorf("after the second save: %+v", m)
	}
	// The type is told by the name when the client tells none.
	put(t, s, dir+"/b.txt", map[string]any{"format": "text", "content": "x"}).Want(t, 201)
	put(t, s, dir+"/b.ipynb", map[string]any{"content": notebook("1", "x")}).Want(t, 201)
	if m := read(t, s, dir+"/b.ipynb", ""); m.Type != "notebook" {
		t.Errorf("a notebook is stored as %s", m.Type)
	}
	put(t, s, dir+"/sub", map[string]any{"type": "directory"}).Want(t, 201)
	put(t, s, dir+"/sub", map[string]any{"type": "directory"}).Want(t, 200, 201)
	write(t, s, dir+"/sub/c.txt", "x")
}

func saveRefuses(t testing.TB, s *target) {
	dir := folder(t, s)
	write(t, s, dir+"/a.txt", "kept")
	write(t, s, dir+"/n.ipynb", "{}")
	for what, body := range map[string]any{
		"no format":         map[string]any{"type": "file", "content": "x"},
		"json of a file":    map[string]any{"type": "file", "format": "json", "content": "x"},
		"directory on file": map[string]any{"type": "directory"},
		"copy_from":         map[string]any{"copy_from": dir + "/a.txt"},
		"no JSON":           `{"type": "file", `,
	} {
		if answer := s.Do(t, "PUT", contentsAt(dir+"/a.txt"), body); answer.Status != 400 {
			t.Errorf("%s answered %d, want 400: %.200s", what, answer.Status, answer.Body)
		}
	}
	put(t, s, dir+"/.hidden", map[string]any{"type": "file", "format": "text", "content": "x"}).Want(t, 400)
	if got := read(t, s, dir+"/a.txt", "").text(t); got != "kept" {
		t.Errorf("the file is now %q", got)
	}
}

func saveRefusesNonsense(t testing.TB, s *target) {
	dir := folder(t, s)
	write(t, s, dir+"/a.txt", "kept")
	for what, body := range map[string]any{
		"bad base64":     map[string]any{"type": "file", "format": "base64", "content": "%%%"},
		"a number":       map[string]any{"type": "file", "format": "text", "content": 1},
		"not UTF-8":      "{\"type\": \"file\", \"format\": \"text\", \"content\": \"\xff\xfe\"}",
		"a list":         "[]",
		"null":           "null",
		"deep":           strings.Repeat(`{"a":`, 20_000) + "1" + strings.Repeat("}", 20_000),
		"deep content":   `{"type":"notebook","format":"json","content":` + strings.Repeat("[", 20_000) + strings.Repeat("]", 20_000) + "}",
		"two documents":  `{"type":"file","format":"text","content":"x"} {}`,
		"notebook: text": map[string]any{"type": "notebook", "format": "json", "content": "x"},
	} {
		if answer := s.Do(t, "PUT", contentsAt(dir+"/a.txt"), body); answer.Status != 400 {
			t.Errorf("%s answered %d, want 400: %.200s", what, answer.Status, answer.Body)
		}
	}
	put(t, s, dir, map[string]any{"type": "file", "format": "text", "content": "x"}).Want(t, 400)
	if got := read(t, s, dir+"/a.txt", "").text(t); got != "kept" {
		t.Errorf("the file is now %q", got)
	}
}

func saveWithoutParent(t testing.TB, s *target) {
	dir := folder(t, s)
	body := map[string]any{"type": "file", "format": "text", "content": "x"}
	answer := put(t, s, dir+"/none/a.txt", body).Want(t, 400, 404, 409)
	if message, _ := answer.Object(t)["message"].(string); message == "" {
		t.Errorf("no message in %s", answer.Body)
	}
}

func saveEmpty(t testing.TB, s *target) {
	dir := folder(t, s)
	put(t, s, dir+"/n.ipynb", map[string]any{"type": "notebook"}).Want(t, 201)
	var book struct {
		Nbformat int
		Cells    []any
	}
	if err := json.Unmarshal(read(t, s, dir+"/n.ipynb", "").Content, &book); err != nil || book.Nbformat != 4 || len(book.Cells) != 0 {
		t.Errorf("an empty notebook is %+v (%v)", book, err)
	}
	put(t, s, dir+"/a.txt", map[string]any{"type": "file", "format": "text"}).Want(t, 201)
	if got := read(t, s, dir+"/a.txt", "").text(t); got != "" {
		t.Errorf("an empty file holds %q", got)
	}
}

func savedNotebookGetsCheckpoint(t testing.TB, s *target) {
	dir := folder(t, s)
	put(t, s, dir+"/n.ipynb", map[string]any{"type": "notebook", "format": "json", "content": notebook("1", "x")}).Want(t, 201)
	if got := checkpoints(t, s, dir+"/n.ipynb"); len(got) != 1 {
		t.Errorf("a saved notebook has %d checkpoints", len(got))
	}
}

func part(n int, format, content string) map[string]any {
	return map[string]any{"type": "file", "format": format, "content": content, "chunk": n}
}

func chunkedUpload(t testing.TB, s *target) {
	dir := folder(t, s)
	parts := []string{strings.Repeat("a\xff", 3000), strings.Repeat("b\x00", 2999) + "c", "the end"}
	for i, bytes := range parts {
		n := i + 1
		if n == len(parts) {
			n = -1
		}
		answer := put(t, s, dir+"/b.bin", part(n, "base64", base64.StdEncoding.EncodeToString([]byte(bytes)))).Want(t, 200, 201)
		if m := fileModel(t, answer); m.Type != "file" || m.Path != dir+"/b.bin" {
			t.Errorf("chunk %d answers %+v", n, m)
		}
	}
	got := s.Do(t, "GET", "files/"+escape(dir+"/b.bin"), nil).Want(t, 200).Body
	if want := strings.Join(parts, ""); string(got) != want {
		t.Errorf("the upload has %d bytes, want the %d that were sent", len(got), len(want))
	}
	put(t, s, dir+"/a.txt", part(1, "text", "häl")).Want(t, 201)
	put(t, s, dir+"/a.txt", part(-1, "text", "lo")).Want(t, 200, 201)
	if m := read(t, s, dir+"/a.txt", ""); m.text(t) != "hällo" || *m.Size != 6 {
		t.Errorf("chunks of text come back as %+v", m)
	}
}

func chunkedUploadStartsAnew(t testing.TB, s *target) {
	dir := folder(t, s)
	put(t, s, dir+"/a.txt", part(1, "text", "lost")).Want(t, 201)
	put(t, s, dir+"/a.txt", part(2, "text", "lost")).Want(t, 200, 201)
	put(t, s, dir+"/a.txt", part(1, "text", "one ")).Want(t, 200, 201)
	put(t, s, dir+"/a.txt", part(2, "text", "two ")).Want(t, 200, 201)
	put(t, s, dir+"/a.txt", part(-1, "text", "three")).Want(t, 200, 201)
	if got := read(t, s, dir+"/a.txt", "").text(t); got != "one two three" {
		t.Errorf("an upload that began again is %q", got)
	}
	write(t, s, dir+"/a.txt", "whole")
	if got := read(t, s, dir+"/a.txt", "").text(t); got != "whole" {
		t.Errorf("a save after an upload is %q", got)
	}
}

func chunksAreOfFilesOnly(t testing.TB, s *target) {
	dir := folder(t, s)
	for what, body := range map[string]map[string]any{
		"notebook":       {"type": "notebook", "format": "json", "content": notebook("1", "x"), "chunk": 1},
		"format json":    {"type": "file", "format": "json", "content": "x", "chunk": 1},
		"without format": {"type": "file", "content": "x", "chunk": 1},
		"directory":      {"type": "directory", "chunk": 1},
	} {
		if answer := put(t, s, dir+"/a.bin", body); answer.Status != 400 {
			t.Errorf("%s answered %d, want 400: %.200s", what, answer.Status, answer.Body)
		}
	}
}

func halfAnUpload(t testing.TB, s *target) {
	dir := folder(t, s)
	write(t, s, dir+"/a.txt", "kept")
	put(t, s, dir+"/a.txt", part(1, "text", "half of ")).Want(t, 200, 201)
	if got := read(t, s, dir+"/a.txt", "").text(t); got != "kept" {
		t.Errorf("half an upload is seen: %q", got)
	}
	put(t, s, dir+"/a.txt", part(-1, "text", "it")).Want(t, 200, 201)
	if got := read(t, s, dir+"/a.txt", "").text(t); got != "half of it" {
		t.Errorf("the upload is %q", got)
	}
}

// post creates in a directory and returns the name that was found.
func post(t testing.TB, s *target, dir string, body any) string {
	t.Helper()
	answer := s.Do(t, "POST", contentsAt(dir), body).Want(t, 201)
	m := fileModel(t, answer)
	wantLocation(t, answer, m.Path)
	if string(m.Content) != "null" || m.Path != dir+"/"+m.Name {
		t.Errorf("a new file is %+v", m)
	}
	return m.Name
}

func untitledNames(t testing.TB, s *target) {
	dir := folder(t, s)
	var got []string
	for _, body := range []any{
		nil,
		map[string]any{},
		map[string]any{"type": "file"},
		map[string]any{"type": "file", "ext": ".txt"},
		map[string]any{"type": "file", "ext": ".txt"},
		map[string]any{"ext": ".md"},
		map[string]any{"type": "notebook"},
		map[string]any{"type": "notebook"},
		map[string]any{"ext": ".ipynb"},
		map[string]any{"type": "directory"},
		map[string]any{"type": "directory"},
		map[string]any{"type": "directory"},
	} {
		got = append(got, post(t, s, dir, body))
	}
	want := []string{
		"untitled", "untitled1", "untitled2", "untitled.txt", "untitled1.txt", "untitled.md",
		"Untitled.ipynb", "Untitled1.ipynb", "Untitled2.ipynb", "Untitled Folder", "Untitled Folder 1", "Untitled Folder 2",
	}
	if !slices.Equal(got, want) {
		t.Errorf("the names are %q, want %q", got, want)
	}
	s.Do(t, "POST", contentsAt(dir+"/none"), nil).Want(t, 404)
	s.Do(t, "POST", contentsAt(dir+"/untitled"), nil).Want(t, 400)
}

func copyNames(t testing.TB, s *target) {
	dir := folder(t, s)
	for _, name := range []string{"a.txt", "b", "c.tar.gz", "e-Copy3.txt"} {
		write(t, s, dir+"/"+name, "content of "+name)
	}
	put(t, s, dir+"/n.v1.ipynb", map[string]any{"type": "notebook", "format": "json", "content": notebook("1", "x")}).Want(t, 201)
	for _, c := range [][2]string{
		{"a.txt", "a-Copy1.txt"},
		{"a.txt", "a-Copy2.txt"},
		{"a-Copy1.txt", "a-Copy3.txt"},
		{"b", "b-Copy1"},
		{"c.tar.gz", "c-Copy1.tar.gz"},
		{"e-Copy3.txt", "e.txt"},
		{"n.v1.ipynb", "n.v1-Copy1.ipynb"},
	} {
		if got := post(t, s, dir, map[string]string{"copy_from": dir + "/" + c[0]}); got != c[1] {
			t.Errorf("the copy of %s is %s, want %s", c[0], got, c[1])
		}
	}
	if got := read(t, s, dir+"/a-Copy3.txt", "").text(t); got != "content of a.txt" {
		t.Errorf("a copy holds %q", got)
	}
	write(t, s, dir+"/a.txt", "changed")
	if got := read(t, s, dir+"/a-Copy1.txt", "").text(t); got != "content of a.txt" {
		t.Errorf("a copy follows its source: %q", got)
	}
}

func copyElsewhere(t testing.TB, s *target) {
	from, to := folder(t, s), folder(t, s)
	write(t, s, from+"/a.txt", "x")
	for _, want := range []string{"a.txt", "a-Copy1.txt"} {
		if got := post(t, s, to, map[string]string{"copy_from": from + "/a.txt"}); got != want {
			t.Errorf("the copy is %s, want %s", got, want)
		}
	}
}

func copyDirectory(t testing.TB, s *target) {
	dir := folder(t, s)
	put(t, s, dir+"/sub", map[string]any{"type": "directory"}).Want(t, 201)
	put(t, s, dir+"/sub/deep", map[string]any{"type": "directory"}).Want(t, 201)
	write(t, s, dir+"/sub/deep/a.txt", "deep")
	name := post(t, s, dir, map[string]string{"copy_from": dir + "/sub"})
	if got := read(t, s, dir+"/"+name+"/deep/a.txt", "").text(t); got != "deep" {
		t.Errorf("in the copied directory %s is %q", name, got)
	}
}

func copyRefusals(t testing.TB, s *target) {
	dir := folder(t, s)
	write(t, s, dir+"/a.txt", "x")
	s.Do(t, "POST", contentsAt(dir+"/a.txt"), map[string]string{"copy_from": dir + "/a.txt"}).Want(t, 400)
	s.Do(t, "POST", contentsAt(dir), map[string]string{"copy_from": dir + "/none.txt"}).Want(t, 404)
	s.Do(t, "POST", contentsAt(dir+"/none/deep"), map[string]string{"copy_from": dir + "/a.txt"}).Want(t, 404)
	if got := names(read(t, s, dir, "").entries(t)); fmt.Sprint(got) != "[a.txt]" {
		t.Errorf("the directory holds %v", got)
	}
}

func patch(t testing.TB, s *target, from, to string) *probe.Answer {
	t.Helper()
	return s.Do(t, "PATCH", contentsAt(from), map[string]string{"path": to})
}

func rename(t testing.TB, s *target) {
	dir := folder(t, s)
	write(t, s, dir+"/a.txt", "moved")
	answer := patch(t, s, dir+"/a.txt", dir+"/b.txt").Want(t, 200)
	wantLocation(t, answer, dir+"/b.txt")
	if m := fileModel(t, answer); m.Path != dir+"/b.txt" || m.Name != "b.txt" || string(m.Content) != "null" {
		t.Errorf("the renamed file is %+v", m)
	}
	s.Do(t, "GET", contentsAt(dir+"/a.txt"), nil).Want(t, 404)
	if got := read(t, s, dir+"/b.txt", "").text(t); got != "moved" {
		t.Errorf("the renamed file holds %q", got)
	}
	patch(t, s, dir+"/b.txt", dir+"/b.txt").Want(t, 200)
	s.Do(t, "PATCH", contentsAt(dir+"/b.txt"), "{}").Want(t, 200)
	put(t, s, dir+"/sub", map[string]any{"type": "directory"}).Want(t, 201)
	patch(t, s, dir+"/b.txt", dir+"/sub/c.txt").Want(t, 200)
	patch(t, s, dir+"/sub/c.txt", dir+"/sub/C.txt").Want(t, 200)
	if got := names(read(t, s, dir+"/sub", "").entries(t)); fmt.Sprint(got) != "[C.txt]" {
		t.Errorf("the directory holds %v", got)
	}
}

func renameOntoAFile(t testing.TB, s *target) {
	dir := folder(t, s)
	write(t, s, dir+"/a.txt", "a")
	write(t, s, dir+"/b.txt", "b")
	message, _ := patch(t, s, dir+"/a.txt", dir+"/b.txt").Want(t, 409).Object(t)["message"].(string)
	if !strings.Contains(message, "already exists") {
		t.Errorf("the message is %q: JupyterLab looks for \"already exists\"", message)
	}
	for name, want := range map[string]string{"a.txt": "a", "b.txt": "b"} {
		if got := read(t, s, dir+"/"+name, "").text(t); got != want {
			t.Errorf("%s holds %q after a refused rename", name, got)
		}
	}
}

func renameRefusals(t testing.TB, s *target) {
	dir := folder(t, s)
	write(t, s, dir+"/a.txt", "a")
	patch(t, s, dir+"/none.txt", dir+"/b.txt").Want(t, 404)
	patch(t, s, dir+"/a.txt", dir+"/.hidden").Want(t, 400)
	patch(t, s, dir+"/a.txt", dir+"/none/b.txt").Want(t, 404)
	s.Do(t, "PATCH", contentsAt(dir+"/a.txt"), "[").Want(t, 400)
	read(t, s, dir+"/a.txt", "")
}

func renameDirectory(t testing.TB, s *target) {
	dir := folder(t, s)
	put(t, s, dir+"/sub", map[string]any{"type": "directory"}).Want(t, 201)
	put(t, s, dir+"/sub/empty", map[string]any{"type": "directory"}).Want(t, 201)
	for i := range 5 {
		write(t, s, fmt.Sprintf("%s/sub/%d.txt", dir, i), fmt.Sprint(i))
	}
	patch(t, s, dir+"/sub", dir+"/moved").Want(t, 200)
	s.Do(t, "GET", contentsAt(dir+"/sub"), nil).Want(t, 404)
	s.Do(t, "GET", contentsAt(dir+"/sub/1.txt"), nil).Want(t, 404)
	got := names(read(t, s, dir+"/moved", "").entries(t))
	slices.Sort(got)
	if fmt.Sprint(got) != "[0.txt 1.txt 2.txt 3.txt 4.txt empty]" {
		t.Errorf("the moved directory holds %v", got)
	}
	if got := read(t, s, dir+"/moved/3.txt", "").text(t); got != "3" {
		t.Errorf("a file of the moved directory holds %q", got)
	}
}

func renameIntoItself(t testing.TB, s *target) {
	dir := folder(t, s)
	put(t, s, dir+"/sub", map[string]any{"type": "directory"}).Want(t, 201)
	write(t, s, dir+"/sub/a.txt", "kept")
	patch(t, s, dir+"/sub", dir+"/sub/inside").Want(t, 400, 404, 409)
	if got := read(t, s, dir+"/sub/a.txt", "").text(t); got != "kept" {
		t.Errorf("the file holds %q", got)
	}
}

func deletes(t testing.TB, s *target) {
	dir := folder(t, s)
	put(t, s, dir+"/sub", map[string]any{"type": "directory"}).Want(t, 201)
	write(t, s, dir+"/sub/a.txt", "x")
	write(t, s, dir+"/b.txt", "x")
	s.Do(t, "DELETE", contentsAt(dir+"/b.txt"), nil).Want(t, 204)
	s.Do(t, "GET", contentsAt(dir+"/b.txt"), nil).Want(t, 404)
	s.Do(t, "DELETE", contentsAt(dir+"/b.txt"), nil).Want(t, 404)
	s.Do(t, "DELETE", contentsAt(dir+"/sub"), nil).Want(t, 204) // not empty: it goes to the trash
	s.Do(t, "GET", contentsAt(dir+"/sub/a.txt"), nil).Want(t, 404)
	s.Do(t, "DELETE", "api/contents/", nil).Want(t, 400)
	read(t, s, dir, "")
	// What was deleted does not come back with its name.
	put(t, s, dir+"/sub", map[string]any{"type": "directory"}).Want(t, 201)
	if got := read(t, s, dir+"/sub", "").entries(t); len(got) != 0 {
		t.Errorf("a new directory holds %v", names(got))
	}
}

func hiddenFiles(t testing.TB, s *target) {
	dir := folder(t, s)
	for _, path := range []string{".ssh/id_rsa", ".jupyter/jupyter_server_config.py", ".local/share/jupyter/runtime/jpserver-1.json", dir + "/.x", dir + "/.x/y.txt"} {
		if answer := s.Do(t, "GET", contentsAt(path), nil); answer.Status != 404 {
			t.Errorf("GET %s answered %d, want 404", path, answer.Status)
		}
		if answer := s.Do(t, "GET", "files/"+path, nil); answer.Status != 404 {
			t.Errorf("GET files/%s answered %d, want 404", path, answer.Status)
		}
		body := map[string]any{"type": "file", "format": "text", "content": "x"}
		if answer := put(t, s, path, body); answer.Status != 400 {
			t.Errorf("PUT %s answered %d, want 400", path, answer.Status)
		}
		if answer := s.Do(t, "DELETE", contentsAt(path), nil); answer.Status != 400 && answer.Status != 404 {
			t.Errorf("DELETE %s answered %d, want 400", path, answer.Status)
		}
	}
}

func strangeNames(t testing.TB, s *target) {
	dir := folder(t, s)
	all := []string{
		"ünïcode ☃ \U0001F600.txt", `"quoted' & <b>.txt`, "100%.txt", "%2e%2e", "a+b c.txt", "q?a=b#c.txt", "semi;colon,comma.txt",
		"-rf", "nan", "null", "=cmd()", "日本語", "ends with dot.", "e\u0301 combining", "CON", strings.Repeat("n", 200),
	}
	for _, name := range all {
		answer := put(t, s, dir+"/"+name, map[string]any{"type": "file", "format": "text", "content": name})
		if answer.Status != 201 {
			t.Errorf("PUT %q answered %d: %.200s", name, answer.Status, answer.Body)
			continue
		}
		wantLocation(t, answer, dir+"/"+name)
		if m := read(t, s, dir+"/"+name, ""); m.Name != name || m.text(t) != name {
			t.Errorf("%q comes back as %q with %s", name, m.Name, m.Content)
		}
		if got := s.Do(t, "GET", "files/"+escape(dir+"/"+name), nil).Want(t, 200).Body; string(got) != name {
			t.Errorf("files/%s is %q", name, got)
		}
	}
	got := names(read(t, s, dir, "").entries(t))
	slices.Sort(got)
	slices.Sort(all)
	if !slices.Equal(got, all) {
		t.Errorf("the listing shows\n%q, want\n%q", got, all)
	}
	for _, name := range all {
		if answer := patch(t, s, dir+"/"+name, dir+"/renamed"); answer.Status != 200 {
			t.Errorf("the rename of %q answered %d", name, answer.Status)
		}
		s.Do(t, "DELETE", contentsAt(dir+"/renamed"), nil)
	}
}

func readsSeeTheLastWrite(t testing.TB, s *target) {
	dir := folder(t, s)
	for i := range 30 {
		text := fmt.Sprint("version ", i)
		write(t, s, dir+"/a.txt", text)
		if got := read(t, s, dir+"/a.txt", "content=1&hash=1").text(t); got != text {
			t.Fatalf("after the save of %q the file is %q", text, got)
		}
	}
}
