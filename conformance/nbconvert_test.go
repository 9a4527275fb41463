package conformance

import (
	"archive/zip"
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"kernelgw/conformance/probe"
)

// JupyterLab's menu "Save and Export Notebook As". A server may have no nbconvert;
// it then says so, and the checks of documents have nothing to look at.
var nbconvertChecks = []check{
	{name: "NbconvertFormatsAreListed", run: nbconvertFormats},
	{name: "NbconvertOfASavedNotebook", run: nbconvertSaved},
	{name: "NbconvertOfAPostedNotebook", run: nbconvertPosted},
	{name: "NbconvertPacksPictures", run: nbconvertPacks},
	{name: "NbconvertSanitizes", run: nbconvertSanitizes},
	{name: "NbconvertRunsNoScriptsOfTheServer", run: nbconvertConfines},
	{name: "NbconvertOfWhatIsNoNotebook", run: nbconvertRefusals},
	{
		name: "NbconvertOfAnotherFileLeadsThere", run: nbconvertOfAnotherFile,
		extension: &extension{because: "it answers with nothing", fails: "answered 200"},
	},
	{name: "NbconvertForStrangers", run: nbconvertForStrangers},
	{
		name: "NbconvertListsOnlyWhatWorks", run: nbconvertWorks,
		extension: &extension{because: "its menu has formats that take programs which are not installed", fails: "answered 500|answered 404"},
	},
	{
		name: "NbconvertOfUnknownFormatIs404", run: nbconvertUnknown,
		extension: &extension{because: "it answers 500", fails: "answered 500"},
	},
	{
		name: "NbconvertReadsNoModulesBesideTheNotebook", run: nbconvertModules,
	},
}

// formats are those that the server converts to.
func formats(t testing.TB, s *target) []string {
	t.Helper()
	var list []string
	for name := range s.Do(t, "GET", "api/nbconvert", nil).Want(t, 200).Object(t) {
		list = append(list, name)
	}
	slices.Sort(list)
	return list
}

// needNbconvert reports whether the server converts to HTML.
func needNbconvert(t testing.TB, s *target) bool {
	t.Helper()
	if slices.Contains(formats(t, s), "html") {
		return true
	}
	if s.process != nil {
		t.Fatal("the server has no nbconvert, which its image and its Python should have: run make image clients")
	}
	// The remedy is said to who asks all the same.
	dir := folder(t, s)
	saveExported(t, s, dir+"/a.ipynb", "x", nil)
	answer := s.Do(t, "GET", "nbconvert/html/"+escape(dir+"/a.ipynb"), nil).Want(t, 500, 501)
	if !bytes.Contains(answer.Body, []byte("nbconvert")) {
		t.Errorf("without nbconvert the server says %.300s", answer.Body)
	}
	t.Log("!! NOT CHECKED: nbconvert: the server's kernels have none")
	return false
}

// exported is a notebook with a cell of Markdown and one with an output.
func exported(markdown string, output map[string]any) map[string]any {
	if output == nil {
		output = map[string]any{"text/plain": "forty-two"}
	}
	return map[string]any{
		"nbformat": 4, "nbformat_minor": 5, "metadata": map[string]any{"language_info": map[string]any{"name": "python", "file_extension": ".py"}},
		"cells": []any{
			map[string]any{"cell_type": "markdown", "id": "m", "metadata": map[string]any{}, "source": markdown},
			map[string]any{
				"cell_type": "code", "id": "c", "metadata": map[string]any{}, "source": "6*7", "execution_count": 1,
				"outputs": []any{map[string]any{"output_type": "display_data", "metadata": map[string]any{}, "data": output}},
			},
		},
	}
}

func saveExported(t testing.TB, s *target, path, markdown string, output map[string]any) {
	t.Helper()
	put(t, s, path, map[string]any{"type": "notebook", "format": "json", "content": exported(markdown, output)}).Want(t, 200, 201)
}

func nbconvertFormats(t testing.TB, s *target) {
	for name, format := range s.Do(t, "GET", "api/nbconvert", nil).Want(t, 200).Object(t) {
		if object, ok := format.(map[string]any); !ok || object["output_mimetype"] == nil {
			t.Errorf("the format %s is %v", name, format)
		}
	}
}

func nbconvertSaved(t testing.TB, s *target) {
	if !needNbconvert(t, s) {
		return
	}
	dir := folder(t, s)
	path := dir + "/my nötes.ipynb"
	saveExported(t, s, path, "# Heading ü", nil)
	answer := s.Do(t, "GET", "nbconvert/html/"+escape(path), nil).Want(t, 200)
	for _, want := range []string{"<title>my nötes</title>", "Heading ü", "forty-two"} {
		if !bytes.Contains(answer.Body, []byte(want)) {
			t.Errorf("no %q in %d bytes", want, len(answer.Body))
		}
	}
	if kind := strings.ToLower(answer.Header.Get("Content-Type")); kind != "text/html; charset=utf-8" {
		t.Errorf("Content-Type is %q", kind)
	}
	if got := answer.Header.Get("Content-Disposition"); got != "" {
		t.Errorf("Content-Disposition is %q", got)
	}
	if got := answer.Header.Get("Last-Modified"); got == "" {
		t.Error("there is no Last-Modified")
	}
	for query, suffix := range map[string]string{"html/" + escape(path) + "?download=true": "my%20n%C3%B6tes.html", "script/" + escape(path) + "?download=true": "my%20n%C3%B6tes.py"} {
		answer := s.Do(t, "GET", "nbconvert/"+query, nil).Want(t, 200)
		if got := answer.Header.Get("Content-Disposition"); !strings.EqualFold(got, "attachment; filename*=utf-8''"+suffix) {
			t.Errorf("%s: Content-Disposition is %q", query, got)
		}
	}
}

func nbconvertPosted(t testing.TB, s *target) {
	if !needNbconvert(t, s) {
		return
	}
	answer := s.Do(t, "POST", "nbconvert/html", map[string]any{"name": "posted.ipynb", "type": "notebook", "content": exported("# Posted ü", nil)}).Want(t, 200)
	if !bytes.Contains(answer.Body, []byte("<title>posted</title>")) || !bytes.Contains(answer.Body, []byte("Posted ü")) {
		t.Errorf("the document is %.300s", answer.Body)
	}
	if kind := strings.ToLower(answer.Header.Get("Content-Type")); kind != "text/html; charset=utf-8" {
		t.Errorf("Content-Type is %q", kind)
	}
	s.Do(t, "POST", "nbconvert/html", "{").Want(t, 400)
}

func nbconvertPacks(t testing.TB, s *target) {
	if !needNbconvert(t, s) {
		return
	}
	path := folder(t, s) + "/pictures.ipynb"
	saveExported(t, s, path, "text", map[string]any{"image/png": "iVBORw0KGgo="})
	answer := s.Do(t, "GET", "nbconvert/markdown/"+escape(path), nil).Want(t, 200)
	if kind := answer.Header.Get("Content-Type"); kind != "application/zip" {
		t.Errorf("Content-Type is %q", kind)
	}
	if got := answer.Header.Get("Content-Disposition"); !strings.EqualFold(got, "attachment; filename*=utf-8''pictures.zip") {
		t.Errorf("Content-Disposition is %q", got)
	}
	archive, err := zip.NewReader(bytes.NewReader(answer.Body), int64(len(answer.Body)))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range archive.File {
		names = append(names, f.Name)
	}
	if fmt.Sprint(names) != "[pictures.md output_1_0.png]" {
		t.Errorf("the archive has %v", names)
	}
}

func nbconvertSanitizes(t testing.TB, s *target) {
	if !needNbconvert(t, s) {
		return
	}
	path := folder(t, s) + "/a.ipynb"
	saveExported(t, s, path, "x", map[string]any{"text/html": "<script>evil()</script><b>bold</b>"})
	for query, scripts := range map[string]bool{"": true, "?sanitize_html=true": false, "?sanitize_html=false": true} {
		answer := s.Do(t, "GET", "nbconvert/html/"+escape(path)+query, nil).Want(t, 200)
		if got := bytes.Contains(answer.Body, []byte("<script>evil()")); got != scripts {
			t.Errorf("%s: the script is there: %v", query, got)
		}
		if !bytes.Contains(answer.Body, []byte("<b>bold</b>")) {
			t.Errorf("%s: the rest is not there", query)
		}
	}
}

// CVE-2026-44727: the pages of a notebook must not act as the user.
func nbconvertConfines(t testing.TB, s *target) {
	if !needNbconvert(t, s) {
		return
	}
	path := folder(t, s) + "/a.ipynb"
	saveExported(t, s, path, "<script>evil()</script>", nil)
	at := "nbconvert/html/" + escape(path)
	posted := map[string]any{"name": "a.ipynb", "content": exported("<script>evil()</script>", nil)}
	for what, answer := range map[string]*probe.Answer{
		"saved": s.Do(t, "GET", at, nil), "downloaded": s.Do(t, "GET", at+"?download=true", nil), "posted": s.Do(t, "POST", "nbconvert/html", posted),
	} {
		policy := answer.Want(t, 200).Header.Get("Content-Security-Policy")
		if !strings.Contains(policy, "sandbox allow-scripts") || strings.Contains(policy, "allow-same-origin") {
			t.Errorf("%s: Content-Security-Policy is %q", what, policy)
		}
		if got := answer.Header.Get("X-Content-Type-Options"); got != "nosniff" {
			t.Errorf("%s: X-Content-Type-Options is %q", what, got)
		}
	}
}

func nbconvertOfAnotherFile(t testing.TB, s *target) {
	dir := folder(t, s)
	upload(t, s, dir+"/a.txt", []byte("text"))
	answer := s.Do(t, "GET", "nbconvert/html/"+escape(dir+"/a.txt"), nil).Want(t, 302)
	if location := answer.Header.Get("Location"); !strings.HasSuffix(location, "/files/"+escape(dir+"/a.txt")) {
		t.Errorf("a text is at %q", location)
	}
}

func nbconvertRefusals(t testing.TB, s *target) {
	dir := folder(t, s)
	s.Do(t, "GET", "nbconvert/html/"+escape(dir+"/none.ipynb"), nil).Want(t, 404)
	if needNbconvert(t, s) {
		upload(t, s, dir+"/broken.ipynb", []byte("{nonsense"))
		s.Do(t, "GET", "nbconvert/html/"+escape(dir+"/broken.ipynb"), nil).Want(t, 400)
	}
}

func nbconvertForStrangers(t testing.TB, s *target) {
	dir := folder(t, s)
	saveExported(t, s, dir+"/a.ipynb", "secret", nil)
	at := "nbconvert/html/" + escape(dir+"/a.ipynb")
	answer := s.Do(t, "GET", at, nil, probe.Anonymous).Want(t, 302)
	if location := answer.Header.Get("Location"); !strings.HasPrefix(location, "/login?next=") {
		t.Errorf("a stranger is sent to %q", location)
	}
	s.Do(t, "POST", "nbconvert/html", "{}", probe.Anonymous).Want(t, 403)
	cookies := login(t, s)
	s.Do(t, "POST", "nbconvert/html", "{}", probe.WithCookies(cookies)).Want(t, 403)
	evil := s.Do(t, "GET", at, nil, probe.WithCookies(cookies), probe.With("Referer", "http://evil.example/"), probe.With("Sec-Fetch-Site", "cross-site"))
	if bytes.Contains(evil.Body, []byte("secret")) {
		t.Error("a page of another site reads the document")
	}
}

func nbconvertWorks(t testing.TB, s *target) {
	path := folder(t, s) + "/a.ipynb"
	saveExported(t, s, path, "*text*", nil)
	for _, format := range formats(t, s) {
		if format == "custom" { // it takes a template
			continue
		}
		s.Do(t, "GET", "nbconvert/"+format+"/"+escape(path), nil).Want(t, 200)
	}
}

func nbconvertUnknown(t testing.TB, s *target) {
	if !needNbconvert(t, s) {
		return
	}
	path := folder(t, s) + "/a.ipynb"
	saveExported(t, s, path, "x", nil)
	for _, format := range []string{"nonsense", "os", "HTMLX"} {
		var body struct{ Message string }
		if json.Unmarshal(s.Do(t, "GET", "nbconvert/"+format+"/"+escape(path), nil).Want(t, 404).Body, &body) != nil || !strings.Contains(body.Message, format) {
			t.Errorf("%s: the message is %q", format, body.Message)
		}
	}
}

// A notebook comes with files beside it, which may be called like modules.
func nbconvertModules(t testing.TB, s *target) {
	if !needNbconvert(t, s) {
		return
	}
	dir := folder(t, s)
	for _, name := range []string{"json.py", "nbconvert.py", "nbformat.py", "zipfile.py"} {
		upload(t, s, dir+"/"+name, []byte("raise SystemExit('imported')"))
	}
	saveExported(t, s, dir+"/a.ipynb", "x", nil)
	s.Do(t, "GET", "nbconvert/html/"+escape(dir+"/a.ipynb"), nil).Want(t, 200)
}
