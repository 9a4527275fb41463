package conformance

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"kernelgw/conformance/probe"
)

// What JupyterLab's file browser and documents read.
var contentsChecks = []check{
	{name: "ContentsModelHasEveryKey", run: contentsModelHasEveryKey},
	{name: "ContentsListingLeavesOutCaches", run: listingLeavesOutCaches},
	{name: "ContentsRefusesMalformedQueries", run: contentsMalformedQueries},
	{name: "ContentsTextAndBase64", run: contentsTextAndBase64},
	{name: "ContentsMimetypes", run: contentsMimetypes},
	{name: "ContentsTypeMismatchIs400", run: contentsTypeMismatch},
	{name: "ContentsHashIsOfTheStoredBytes", run: contentsHash},
	{
		name: "ContentsHashOfADirectoryIsNull", run: contentsHashOfDirectory,
		extension: &extension{because: "it answers 500", fails: "answered 500"},
	},
	{name: "ContentsNotebookIsNormalised", run: notebookNormalised},
	{name: "ContentsUnreadableNotebookIs400", run: notebookUnreadable},
	{name: "ContentsInvalidNotebookIsServedWithAMessage", run: notebookInvalid},
	{name: "ContentsNotebookAsTextAndFileAsNotebook", run: notebookAsText},
	{name: "ContentsTrustIsRemembered", run: notebookTrust},
	{name: "ContentsWithoutCredentialsIs403", run: contentsWithoutCredentials},
}

// contentsModel is the model of /api/contents.
type contentsModel struct {
	Name          string          `json:"name"`
	Path          string          `json:"path"`
	Type          string          `json:"type"`
	Created       string          `json:"created"`
	LastModified  string          `json:"last_modified"`
	Mimetype      *string         `json:"mimetype"`
	Size          *int64          `json:"size"`
	Writable      bool            `json:"writable"`
	Format        *string         `json:"format"`
	Content       json.RawMessage `json:"content"`
	Hash          *string         `json:"hash"`
	HashAlgorithm *string         `json:"hash_algorithm"`
	Message       string          `json:"message"`
}

// text is the content of a file that has some.
func (m contentsModel) text(t testing.TB) string {
	t.Helper()
	var s string
	if err := json.Unmarshal(m.Content, &s); err != nil {
		t.Fatalf("the content of %s is no text: %.200s", m.Path, m.Content)
	}
	return s
}

// entries is the content of a directory.
func (m contentsModel) entries(t testing.TB) []contentsModel {
	t.Helper()
	var list []contentsModel
	if err := json.Unmarshal(m.Content, &list); err != nil {
		t.Fatalf("the content of %s is no list: %.200s", m.Path, m.Content)
	}
	return list
}

func names(models []contentsModel) []string {
	list := make([]string, len(models))
	for i, m := range models {
		list[i] = m.Name
	}
	return list
}

// escape encodes a path as JupyterLab does: each element by itself.
func escape(path string) string {
	elements := strings.Split(path, "/")
	for i, e := range elements {
		elements[i] = strings.ReplaceAll(url.QueryEscape(e), "+", "%20")
	}
	return strings.Join(elements, "/")
}

func contentsAt(path string) string { return "api/contents/" + escape(path) }

// folder makes a directory for one check and deletes it afterwards.
func folder(t testing.TB, s *target) string {
	t.Helper()
	name := "checks-" + probe.ID()
	s.Do(t, "PUT", contentsAt(name), map[string]string{"type": "directory"}).Want(t, 201)
	t.Cleanup(func() { _ = s.Delete(contentsAt(name)) })
	return name
}

func put(t testing.TB, s *target, path string, body map[string]any) *probe.Answer {
	t.Helper()
	return s.Do(t, "PUT", contentsAt(path), body)
}

// write saves a text file.
func write(t testing.TB, s *target, path, text string) contentsModel {
	t.Helper()
	return fileModel(t, put(t, s, path, map[string]any{"type": "file", "format": "text", "content": text}).Want(t, 200, 201))
}

// read returns the model of a path; query is without the question mark.
func read(t testing.TB, s *target, path, query string) contentsModel {
	t.Helper()
	return fileModel(t, s.Do(t, "GET", contentsAt(path)+"?"+query, nil).Want(t, 200))
}

var modelKeys = []string{
	"name", "path", "type", "created", "last_modified", "mimetype", "size",
	"writable", "format", "content", "hash", "hash_algorithm",
}

// fileModel decodes a model and holds it against what JupyterLab validates.
func fileModel(t testing.TB, answer *probe.Answer) contentsModel {
	t.Helper()
	object := answer.Object(t)
	for _, key := range modelKeys {
		if _, ok := object[key]; !ok {
			t.Errorf("the model has no %s: %.300s", key, answer.Body)
		}
	}
	for _, key := range []string{"name", "path", "type", "created", "last_modified"} {
		if _, ok := object[key].(string); !ok {
			t.Errorf("%s is %v, want a string", key, object[key])
		}
	}
	if _, err := http.ParseTime(answer.Header.Get("Last-Modified")); err != nil {
		t.Errorf("Last-Modified is %q", answer.Header.Get("Last-Modified"))
	}
	var m contentsModel
	answer.Decode(t, &m)
	if strings.HasPrefix(m.Path, "/") || m.Path != "" && m.Path[strings.LastIndex(m.Path, "/")+1:] != m.Name {
		t.Errorf("name %q and path %q do not fit", m.Name, m.Path)
	}
	return m
}

// notebook returns one of a single code cell with one output.
func notebook(source, output string) map[string]any {
	return map[string]any{
		"nbformat": 4, "nbformat_minor": 5, "metadata": map[string]any{},
		"cells": []any{map[string]any{
			"id": "a1", "cell_type": "code", "metadata": map[string]any{}, "execution_count": 1, "source": source,
			"outputs": []any{map[string]any{
				"output_type": "display_data", "metadata": map[string]any{},
				"data": map[string]any{"text/html": output},
			}},
		}},
	}
}

func contentsModelHasEveryKey(t testing.TB, s *target) {
	dir := folder(t, s)
	write(t, s, dir+"/a.txt", "hello")
	put(t, s, dir+"/n.ipynb", map[string]any{"type": "notebook", "format": "json", "content": notebook("1", "x")}).Want(t, 201)
	if root := read(t, s, "", "content=0"); root.Name != "" || root.Path != "" || root.Type != "directory" {
		t.Errorf("the root is %+v", root)
	}
	for path, kind := range map[string]string{"": "directory", "/a.txt": "file", "/n.ipynb": "notebook"} {
		m := read(t, s, dir+path, "content=0")
		if m.Type != kind || m.Path != dir+path || !m.Writable {
			t.Errorf("%s: %+v", path, m)
		}
		if string(m.Content) != "null" || m.Format != nil {
			t.Errorf("%s: content %.50s, format %v without content", path, m.Content, m.Format)
		}
		m = read(t, s, dir+path, "")
		if string(m.Content) == "null" || m.Format == nil {
			t.Errorf("%s: content %.50s, format %v", path, m.Content, m.Format)
		}
		if (m.Size == nil) != (kind == "directory") {
			t.Errorf("%s: size is %v", path, m.Size)
		}
	}
	list := s.Do(t, "GET", contentsAt(dir)+"?content=1&hash=0", nil).Want(t, 200).Object(t)
	if list["format"] != "json" {
		t.Errorf("the format of a directory is %v", list["format"])
	}
	entries, _ := list["content"].([]any)
	if len(entries) != 2 {
		t.Fatalf("the directory has %d entries", len(entries))
	}
	for _, entry := range entries {
		object := entry.(map[string]any)
		for _, key := range modelKeys {
			if _, ok := object[key]; !ok {
				t.Errorf("the entry %v has no %s", object["path"], key)
			}
		}
		if object["content"] != nil || object["format"] != nil {
			t.Errorf("the entry %v has content", object["path"])
		}
	}
}

func listingLeavesOutCaches(t testing.TB, s *target) {
	dir := folder(t, s)
	s.Do(t, "PUT", contentsAt(dir+"/__pycache__"), map[string]string{"type": "directory"}).Want(t, 201)
	for _, name := range []string{"m.pyc", "m.pyo", "backup~", "seen.txt"} {
		write(t, s, dir+"/"+name, "x")
	}
	if got := names(read(t, s, dir, "").entries(t)); fmt.Sprint(got) != "[seen.txt]" {
		t.Errorf("the listing shows %v", got)
	}
}

func contentsMalformedQueries(t testing.TB, s *target) {
	dir := folder(t, s)
	write(t, s, dir+"/a.txt", "hello")
	for _, query := range []string{"format=zz", "content=2", "content=x", "hash=2", "hash=x"} {
		answer := s.Do(t, "GET", contentsAt(dir+"/a.txt")+"?"+query, nil)
		if answer.Status != 400 {
			t.Errorf("%s answered %d, want 400", query, answer.Status)
		}
	}
	read(t, s, dir+"/a.txt", "type=file&1795502306591&contentProviderId=undefined")
}

func contentsTextAndBase64(t testing.TB, s *target) {
	dir := folder(t, s)
	binary := []byte{0xff, 0xfe, 0, 1, '\n', '\r', 0x80}
	binary = append(binary, bytes.Repeat([]byte{0x9d}, 200)...)
	encoded := base64.StdEncoding.EncodeToString(binary)
	put(t, s, dir+"/b.bin", map[string]any{"type": "file", "format": "base64", "content": encoded}).Want(t, 201)
	m := read(t, s, dir+"/b.bin", "type=file&content=1")
	plain := strings.ReplaceAll(m.text(t), "\n", "")
	if decoded, err := base64.StdEncoding.DecodeString(plain); err != nil || !bytes.Equal(decoded, binary) || *m.Format != "base64" || *m.Size != int64(len(binary)) {
		t.Errorf("binary comes back as %+v (%v)", m, err)
	}
	refused := s.Do(t, "GET", contentsAt(dir+"/b.bin")+"?format=text&content=1", nil).Want(t, 400).Object(t)
	if refused["reason"] != "bad format" {
		t.Errorf("the reason is %v, want bad format", refused["reason"])
	}
	const text = "näıve\r\n\ttext \U0001F600\n"
	write(t, s, dir+"/a.txt", text)
	m = read(t, s, dir+"/a.txt", "content=1")
	if got := m.text(t); got != text || *m.Format != "text" || *m.Size != int64(len(text)) {
		t.Errorf("text comes back as %q, %s, size %d", got, *m.Format, *m.Size)
	}
	m = read(t, s, dir+"/a.txt", "format=base64")
	if got := strings.ReplaceAll(m.text(t), "\n", ""); got != base64.StdEncoding.EncodeToString([]byte(text)) || *m.Format != "base64" {
		t.Errorf("text as base64 comes back as %q, %s", got, *m.Format)
	}
}

func contentsMimetypes(t testing.TB, s *target) {
	dir := folder(t, s)
	for name, want := range map[string]string{"a.txt": "text/plain", "a.py": "text/x-python", "a.png": "image/png", "a.json": "application/json", "noending": "text/plain"} {
		write(t, s, dir+"/"+name, "x")
		if m := read(t, s, dir+"/"+name, "content=1"); m.Mimetype == nil || *m.Mimetype != want {
			t.Errorf("%s: mimetype is %v, want %s", name, show(m.Mimetype), want)
		}
	}
	put(t, s, dir+"/noending.zzz", map[string]any{"type": "file", "format": "base64", "content": "/w=="}).Want(t, 201)
	if m := read(t, s, dir+"/noending.zzz", "content=1"); show(m.Mimetype) != "application/octet-stream" {
		t.Errorf("unknown bytes: mimetype is %v", show(m.Mimetype))
	}
}

func show(s *string) string {
	if s == nil {
		return "null"
	}
	return *s
}

func contentsTypeMismatch(t testing.TB, s *target) {
	dir := folder(t, s)
	write(t, s, dir+"/a.txt", "hello")
	for path, kind := range map[string]string{dir: "file", dir + "/a.txt": "directory"} {
		answer := s.Do(t, "GET", contentsAt(path)+"?type="+kind, nil).Want(t, 400).Object(t)
		if answer["reason"] != "bad type" {
			t.Errorf("%s as %s: reason is %v, want bad type", path, kind, answer["reason"])
		}
	}
	s.Do(t, "GET", contentsAt(dir+"/none.txt"), nil).Want(t, 404)
}

func contentsHash(t testing.TB, s *target) {
	dir := folder(t, s)
	write(t, s, dir+"/a.txt", "hello")
	sum := sha256.Sum256([]byte("hello"))
	for _, query := range []string{"content=0&hash=1", "content=1&hash=1&type=file&format=text"} {
		if m := read(t, s, dir+"/a.txt", query); show(m.Hash) != hex.EncodeToString(sum[:]) || show(m.HashAlgorithm) != "sha256" {
			t.Errorf("%s: hash is %s (%s)", query, show(m.Hash), show(m.HashAlgorithm))
		}
	}
	if m := read(t, s, dir+"/a.txt", "content=0"); m.Hash != nil {
		t.Errorf("a hash that nobody asked for: %s", *m.Hash)
	}
	put(t, s, dir+"/n.ipynb", map[string]any{"type": "notebook", "format": "json", "content": notebook("1", "x")}).Want(t, 201)
	stored := s.Do(t, "GET", "files/"+escape(dir+"/n.ipynb"), nil).Want(t, 200).Body
	sum = sha256.Sum256(stored)
	if m := read(t, s, dir+"/n.ipynb", "type=notebook&content=1&hash=1"); show(m.Hash) != hex.EncodeToString(sum[:]) {
		t.Errorf("the hash of a notebook is %s, that of its bytes %x", show(m.Hash), sum)
	}
}

func contentsHashOfDirectory(t testing.TB, s *target) {
	if m := read(t, s, folder(t, s), "content=0&hash=1"); m.Hash != nil {
		t.Errorf("the hash of a directory is %v", *m.Hash)
	}
}

func notebookNormalised(t testing.TB, s *target) {
	dir := folder(t, s)
	book := notebook("", "<b>x</b>")
	cell := book["cells"].([]any)[0].(map[string]any)
	cell["source"] = []string{"a = 1\n", "b = 2"}
	put(t, s, dir+"/n.ipynb", map[string]any{"type": "notebook", "format": "json", "content": book}).Want(t, 201)
	got := codeCell(t, read(t, s, dir+"/n.ipynb", "type=notebook&content=1"))
	if got.Source != "a = 1\nb = 2" {
		t.Errorf("the source is %q, want lines joined", got.Source)
	}
	if trusted, ok := got.Metadata["trusted"].(bool); !ok || trusted {
		t.Errorf("metadata.trusted is %v, want false", got.Metadata["trusted"])
	}
}

// gotCell is a code cell as served.
type gotCell struct {
	Source   string
	Metadata map[string]any
	Outputs  []map[string]any
}

// codeCell returns the first cell of a notebook as served.
func codeCell(t testing.TB, m contentsModel) gotCell {
	t.Helper()
	var book struct {
		Nbformat int
		Cells    []gotCell
	}
	if err := json.Unmarshal(m.Content, &book); err != nil || book.Nbformat != 4 || len(book.Cells) != 1 {
		t.Fatalf("the notebook is %.300s (%v)", m.Content, err)
	}
	return book.Cells[0]
}

func notebookUnreadable(t testing.TB, s *target) {
	dir := folder(t, s)
	for name, text := range map[string]string{"broken": `{"cells": [`, "list": `[1]`, "empty": ``, "number": `1`} {
		write(t, s, dir+"/"+name+".ipynb", text)
		answer := s.Do(t, "GET", contentsAt(dir+"/"+name+".ipynb")+"?type=notebook&content=1", nil)
		if answer.Status != 400 {
			t.Errorf("%s answered %d, want 400: %.200s", name, answer.Status, answer.Body)
			continue
		}
		if message, _ := answer.Object(t)["message"].(string); message == "" {
			t.Errorf("%s: no message in %.200s", name, answer.Body)
		}
	}
	read(t, s, dir, "content=1") // a broken notebook breaks no listing
}

func notebookInvalid(t testing.TB, s *target) {
	dir := folder(t, s)
	book := notebook("1", "x")
	book["cells"].([]any)[0].(map[string]any)["metadata"] = "no object"
	saved := fileModel(t, put(t, s, dir+"/n.ipynb", map[string]any{"type": "notebook", "format": "json", "content": notebook("1", "x")}).Want(t, 201))
	if saved.Message != "" {
		t.Errorf("a valid notebook is saved with the message %q", saved.Message)
	}
	text, _ := json.Marshal(map[string]any{"nbformat": 4, "nbformat_minor": 5, "metadata": map[string]any{}, "cells": []any{
		map[string]any{"id": "a", "cell_type": "nonsense", "metadata": map[string]any{}, "source": ""},
	}})
	write(t, s, dir+"/bad.ipynb", string(text))
	if m := read(t, s, dir+"/bad.ipynb", "type=notebook&content=1"); m.Message == "" {
		t.Error("an invalid notebook is served without a message")
	}
	saved = fileModel(t, put(t, s, dir+"/bad.ipynb", map[string]any{"type": "notebook", "format": "json", "content": json.RawMessage(text)}).Want(t, 200))
	if saved.Message == "" {
		t.Error("an invalid notebook is saved without a message")
	}
}

func notebookAsText(t testing.TB, s *target) {
	dir := folder(t, s)
	put(t, s, dir+"/n.ipynb", map[string]any{"type": "notebook", "format": "json", "content": notebook("1", "x")}).Want(t, 201)
	m := read(t, s, dir+"/n.ipynb", "type=file&content=1&format=text")
	if !json.Valid([]byte(m.text(t))) || m.Type != "file" {
		t.Errorf("a notebook as text is %+v", m)
	}
	write(t, s, dir+"/n.json", m.text(t))
	if m := read(t, s, dir+"/n.json", "type=notebook&content=1"); m.Type != "notebook" || codeCell(t, m).Source != "1" {
		t.Errorf("a file as notebook is %+v", m)
	}
}

func notebookTrust(t testing.TB, s *target) {
	dir := folder(t, s)
	path := dir + "/n.ipynb"
	output := "<b>" + probe.ID() + "</b>"
	save := func(book map[string]any) {
		put(t, s, path, map[string]any{"type": "notebook", "format": "json", "content": book}).Want(t, 200, 201)
	}
	trusted := func() any { return codeCell(t, read(t, s, path, "content=1")).Metadata["trusted"] }
	save(notebook("1", output))
	if trusted() != false {
		t.Error("an output that nobody vouched for is trusted")
	}
	s.Do(t, "POST", contentsAt(path)+"/trust", nil).Want(t, 201)
	if trusted() != true {
		t.Error("a notebook is not trusted after it was")
	}
	book := notebook("1", output+"2")
	save(book)
	if trusted() != false {
		t.Error("trust outlives a change of the output")
	}
	book["cells"].([]any)[0].(map[string]any)["metadata"] = map[string]any{"trusted": true}
	save(book)
	if trusted() != true {
		t.Error("a notebook saved with all cells trusted is not")
	}
	if stored := s.Do(t, "GET", "files/"+escape(path), nil).Want(t, 200).Body; bytes.Contains(stored, []byte("trusted")) {
		t.Errorf("the file holds the mark of trust: %s", stored)
	}
}

func contentsWithoutCredentials(t testing.TB, s *target) {
	dir := folder(t, s)
	write(t, s, dir+"/a.txt", "secret")
	at := contentsAt(dir + "/a.txt")
	for _, r := range [][2]string{
		{"GET", at},
		{"PUT", at},
		{"PATCH", at},
		{"DELETE", at},
		{"POST", contentsAt(dir)},
		{"GET", at + "/checkpoints"},
		{"POST", at + "/checkpoints"},
		{"POST", at + "/checkpoints/x"},
		{"DELETE", at + "/checkpoints/x"},
		{"POST", contentsAt(dir+"/n.ipynb") + "/trust"},
		{"GET", contentsAt(dir + "/none")},
		{"GET", "api/terminals"},
		{"POST", "api/terminals"},
		{"GET", "api/terminals/1"},
		{"DELETE", "api/terminals/1"},
		{"GET", "api/config/x"},
	} {
		answer := s.Do(t, r[0], r[1], nil, probe.Anonymous)
		if answer.Status != 403 || bytes.Contains(answer.Body, []byte("secret")) {
			t.Errorf("%s %s answered %d: %.100s", r[0], r[1], answer.Status, answer.Body)
		}
	}
	cookies := login(t, s)
	s.Do(t, "PUT", at, map[string]any{"type": "file", "format": "text", "content": "forged"}, probe.WithCookies(cookies)).Want(t, 403)
	s.Do(t, "DELETE", at, nil, probe.WithCookies(cookies)).Want(t, 403)
	if got := read(t, s, dir+"/a.txt", "").text(t); got != "secret" {
		t.Errorf("the file is now %q", got)
	}
}
