package agent

import (
	"archive/zip"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"kernelgw/sandboxes/agentapi"
)

// withNbconvert has the agent find the Python that make clients made.
func withNbconvert(t *testing.T) func(*Options) {
	t.Helper()
	bin, err := filepath.Abs("../../.cache/venv/stock/bin")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(bin, "python3")); err != nil {
		t.Fatalf("%v: run make clients, which fetches what this test needs", err)
	}
	return withPath(bin + ":/usr/bin:/bin")
}

func withPath(path string) func(*Options) {
	return func(o *Options) { o.Config.Env["PATH"] = path }
}

// python has the agent find a python3 that is a shell script.
func python(t *testing.T, script string) func(*Options) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "python3"), []byte("#!/bin/sh\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
	return withPath(dir + ":/usr/bin:/bin")
}

func (r *running) client() *agentapi.Client {
	return &agentapi.Client{Endpoint: agentapi.Endpoint{Network: "unix", Address: r.path}, Token: testToken}
}

// convert returns a document, or the refusal.
func (r *running) convert(asked agentapi.ConvertRequest, notebook string) (agentapi.Document, string, *agentapi.StatusError) {
	r.t.Helper()
	d, content, err := r.client().Convert(r.t.Context(), asked, strings.NewReader(notebook))
	var refused *agentapi.StatusError
	if errors.As(err, &refused) {
		return d, "", refused
	}
	if err != nil {
		r.t.Fatalf("Convert: %v", err)
	}
	defer content.Close()
	b, err := io.ReadAll(content)
	if err != nil || int64(len(b)) != d.Size {
		r.t.Fatalf("%d of %d bytes: %v", len(b), d.Size, err)
	}
	return d, string(b), nil
}

// notebookOf is a notebook with one cell of Markdown and one with an output.
func notebookOf(markdown string, output map[string]any) string {
	b, err := json.Marshal(map[string]any{
		"nbformat": 4, "nbformat_minor": 5, "metadata": map[string]any{}, "cells": []any{
			map[string]any{"cell_type": "markdown", "id": "m", "metadata": map[string]any{}, "source": markdown},
			map[string]any{
				"cell_type": "code", "id": "c", "metadata": map[string]any{}, "source": "6*7", "execution_count": 1,
				"outputs": []any{map[string]any{"output_type": "display_data", "metadata": map[string]any{}, "data": output}},
			},
		},
	})
	if err != nil {
		panic(err)
	}
	return string(b)
}

var plainOutput = map[string]any{"text/plain": "42"}

func TestExportersAreThoseThatWorkHere(t *testing.T) {
	r := startTerminals(t, withNbconvert(t))
	found, err := r.client().Exporters(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for name, mimetype := range map[string]string{"html": "text/html", "markdown": "text/markdown", "slides": "text/html", "notebook": "application/json"} {
		if e, ok := found[name]; !ok || e.Mimetype != mimetype {
			t.Errorf("%s is %+v, %v", name, e, ok)
		}
	}
	// What takes programs that are not there is not offered.
	for _, name := range []string{"pdf", "latex", "webpdf", "qtpdf"} {
		if _, ok := found[name]; ok {
			t.Errorf("%s is offered", name)
		}
	}
}

func TestWithoutNbconvertThereAreNoExportersAndTheRemedyIsSaid(t *testing.T) {
	for name, change := range map[string]func(*Options){
		"no nbconvert": python(t, `exec /usr/bin/python3 -S "$@"`), "no python": withPath("/nowhere"),
	} {
		t.Run(name, func(t *testing.T) {
			r := startTerminals(t, change)
			if found, err := r.client().Exporters(t.Context()); err != nil || len(found) > 0 {
				t.Errorf("exporters %v, %v", found, err)
			}
			_, _, refused := r.convert(agentapi.ConvertRequest{Exporter: "html", Path: "a.ipynb"}, "{}")
			if refused == nil || refused.Code != http.StatusNotImplemented || !strings.Contains(refused.Message, "nbconvert") {
				t.Errorf("refused with %v", refused)
			}
		})
	}
}

func TestNotebooksAreConvertedAsJupyterServerDoes(t *testing.T) {
	r := startTerminals(t, withNbconvert(t))
	modified := time.Date(2026, 11, 3, 9, 0, 0, 0, time.UTC)
	d, html, refused := r.convert(agentapi.ConvertRequest{Exporter: "html", Path: "dir/my wörk.ipynb", Modified: modified},
		notebookOf("# Title ü", plainOutput))
	if refused != nil {
		t.Fatal(refused)
	}
	if d.Mimetype != "text/html" || d.Filename != "my wörk.html" || d.Attachment {
		t.Errorf("document %+v", d)
	}
	for _, want := range []string{"<title>my wörk</title>", "Title ü", "42"} {
		if !strings.Contains(html, want) {
			t.Errorf("no %q in %d bytes of HTML", want, len(html))
		}
	}
	// Pictures are files of their own in Markdown, so it comes as an archive.
	d, packed, refused := r.convert(agentapi.ConvertRequest{Exporter: "markdown", Path: "a.ipynb"}, notebookOf("text", map[string]any{"image/png": "iVBORw0KGgo="}))
	if refused != nil || d.Mimetype != "application/zip" || d.Filename != "a.zip" || !d.Attachment {
		t.Fatalf("document %+v, %v", d, refused)
	}
	archive, err := zip.NewReader(strings.NewReader(packed), d.Size)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range archive.File {
		names = append(names, f.Name)
	}
	if fmt.Sprint(names) != "[a.md output_1_0.png]" {
		t.Errorf("the archive has %v", names)
	}
	posted := `{"name":"posted.ipynb","type":"notebook","content":` + notebookOf("posted text", plainOutput) + `}`
	d, text, refused := r.convert(agentapi.ConvertRequest{Exporter: "script", Posted: true}, posted)
	if refused != nil || d.Filename != "posted.txt" || text != "6*7\n" {
		t.Errorf("document %+v %q, %v", d, text, refused)
	}
	// An old notebook is made a new one first.
	old := `{"nbformat":3,"nbformat_minor":0,"metadata":{"name":""},"worksheets":[{"metadata":{},"cells":[{"cell_type":"markdown","metadata":{},"source":["old one"]}]}]}`
	if _, text, refused := r.convert(agentapi.ConvertRequest{Exporter: "markdown", Path: "a.ipynb"}, old); refused != nil || !strings.Contains(text, "old one") {
		t.Errorf("an old notebook: %q, %v", text, refused)
	}
}

func TestSanitizedHTMLHasNoScripts(t *testing.T) {
	r := startTerminals(t, withNbconvert(t))
	evil := notebookOf("<script>markdown()</script>", map[string]any{"text/html": "<script>output()</script><b>bold</b>"})
	yes := true
	for sanitize, scripts := range map[*bool]bool{nil: true, &yes: false} {
		_, html, refused := r.convert(agentapi.ConvertRequest{Exporter: "html", Path: "a.ipynb", Sanitize: sanitize}, evil)
		if refused != nil {
			t.Fatal(refused)
		}
		if strings.Contains(html, "<script>output()") != scripts || !strings.Contains(html, "<b>bold</b>") {
			t.Errorf("sanitized %v: scripts %v", !scripts, !scripts)
		}
	}
}

func TestNotebooksThatCannotBeConvertedAreRefusedWithAReason(t *testing.T) {
	r := startTerminals(t, withNbconvert(t))
	for name, c := range map[string]struct {
		request  agentapi.ConvertRequest
		notebook string
		code     int
		says     string
	}{
		"no such exporter":      {agentapi.ConvertRequest{Exporter: "nonsense", Path: "a.ipynb"}, "{}", 404, "nonsense"},
		"what is not installed": {agentapi.ConvertRequest{Exporter: "latex", Path: "a.ipynb"}, notebookOf("", plainOutput), 501, "pandoc"},
		"no JSON":               {agentapi.ConvertRequest{Exporter: "html", Path: "a.ipynb"}, "nonsense", 400, "no notebook"},
		"nothing":               {agentapi.ConvertRequest{Exporter: "html", Path: "a.ipynb"}, "", 400, "no notebook"},
		"not UTF-8":             {agentapi.ConvertRequest{Exporter: "html", Path: "a.ipynb"}, "\xff\xfe", 400, "no notebook"},
		"posted without any":    {agentapi.ConvertRequest{Exporter: "html", Posted: true}, `{"name":"x"}`, 400, "no notebook"},
		"posted list":           {agentapi.ConvertRequest{Exporter: "html", Posted: true}, `[]`, 400, "no notebook"},
		"posted odd name":       {agentapi.ConvertRequest{Exporter: "html", Posted: true}, `{"name":5,"content":{}}`, 400, "no notebook"},
		"without cells":         {agentapi.ConvertRequest{Exporter: "html", Posted: true}, `{"content":{"nbformat":4}}`, 422, "nbconvert failed"},
		"deep":                  {agentapi.ConvertRequest{Exporter: "html", Path: "a.ipynb"}, strings.Repeat("[", 100_000), 400, "no notebook"},
		"a module as exporter":  {agentapi.ConvertRequest{Exporter: "os.path", Path: "a.ipynb"}, "{}", 400, "ConvertRequest"},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, refused := r.convert(c.request, c.notebook)
			if refused == nil || refused.Code != c.code || !strings.Contains(refused.Message, c.says) {
				t.Errorf("refused with %v, want %d and %q", refused, c.code, c.says)
			}
		})
	}
}

// Files of the directory that it runs in would be the first that Python imports.
func TestAttackModulesBesideTheNotebookAreNotImported(t *testing.T) {
	r := startTerminals(t, withNbconvert(t))
	dir := filepath.Join(r.agent.opts.Home, "dir")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	for _, name := range []string{"json.py", "nbconvert.py", "nbformat.py", "zipfile.py"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("raise SystemExit('imported')"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, refused := r.convert(agentapi.ConvertRequest{Exporter: "html", Path: "dir/a.ipynb"}, notebookOf("", plainOutput)); refused != nil {
		t.Error(refused)
	}
	if _, _, refused := r.convert(agentapi.ConvertRequest{Exporter: "html", Path: "../../../etc/a.ipynb"}, notebookOf("", plainOutput)); refused != nil {
		t.Error(refused)
	}
}

// nobodyRuns fails when a process has this text in its command line.
func nobodyRuns(t *testing.T, text string) {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range all {
		if b, err := os.ReadFile(file); err == nil && bytes.Contains(b, []byte(text)) {
			t.Errorf("%s lives: %q", file, b)
		}
	}
}

func TestAConversionWithoutEndIsEndedWithAllItStarted(t *testing.T) {
	r := startTerminals(t, python(t, "sleep 7531 & (sleep 7532; true) & wait"))
	r.agent.terminals.conversions.patience = 100 * time.Millisecond
	_, _, refused := r.convert(agentapi.ConvertRequest{Exporter: "html", Path: "a.ipynb"}, "{}")
	if refused == nil || refused.Code != http.StatusUnprocessableEntity || !strings.Contains(refused.Message, "longer than 100ms") {
		t.Errorf("refused with %v", refused)
	}
	nobodyRuns(t, "7531")
	nobodyRuns(t, "7532")
}

func TestAConversionThatNobodyWaitsForIsEnded(t *testing.T) {
	started := filepath.Join(t.TempDir(), "started")
	r := startTerminals(t, python(t, "sleep 7533 & touch "+started+"; wait"))
	gone := r.stuck(t, started)
	gone()
	r.idle()
	nobodyRuns(t, "7533")
}

func TestConversionsEndWithTheSandbox(t *testing.T) {
	started := filepath.Join(t.TempDir(), "started")
	r := startTerminals(t, python(t, "sleep 7534 & touch "+started+"; wait"))
	defer r.stuck(t, started)()
	if status, _ := r.call(http.MethodPost, "/v1/kernel/shutdown"); status != http.StatusNoContent {
		t.Fatal(status)
	}
	<-r.ended
	nobodyRuns(t, "7534")
}

// stuck starts a conversion that has no end, and returns what stops waiting.
func (r *running) stuck(t *testing.T, started string) (gone func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if _, _, err := r.client().Convert(ctx, agentapi.ConvertRequest{Exporter: "html", Path: "a.ipynb"}, strings.NewReader("{}")); err == nil {
			t.Error("a conversion without end made a document")
		}
	}()
	for begin := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		if _, err := os.Stat(started); err == nil {
			return func() { cancel(); <-done }
		}
		if time.Since(begin) > patience {
			t.Fatal("the conversion never starts")
		}
	}
}

// idle waits until no conversion runs.
func (r *running) idle() {
	r.t.Helper()
	c := r.agent.terminals.conversions
	for begin := time.Now(); len(c.slots) > 0; time.Sleep(5 * time.Millisecond) {
		if time.Since(begin) > patience {
			r.t.Fatal("a conversion never ends")
		}
	}
}

func TestConversionsWaitForTheirTurnButNotForEver(t *testing.T) {
	dir := t.TempDir()
	counts := `touch ` + dir + `/$$; ls ` + dir + ` | wc -l >>` + dir + `.most; sleep 0.05; rm ` + dir + `/$$; echo '{"status":499,"message":"done"}'`
	r := startTerminals(t, python(t, counts))
	var all sync.WaitGroup
	for range 3 * maxConversions {
		all.Go(func() {
			if _, _, refused := r.convert(agentapi.ConvertRequest{Exporter: "html", Path: "a.ipynb"}, "{}"); refused == nil || refused.Message != "done" {
				t.Errorf("refused with %v", refused)
			}
		})
	}
	all.Wait()
	most, err := os.ReadFile(dir + ".most")
	if n := len(strings.Fields(string(most))); err != nil || n != 3*maxConversions || strings.Contains(string(most), fmt.Sprint(maxConversions+1)) {
		t.Errorf("%d ran, at once %q, %v", n, most, err)
	}
	c := r.agent.terminals.conversions
	c.patience = 20 * time.Millisecond
	for range maxConversions {
		c.slots <- struct{}{}
	}
	for what, before := range map[string]int32{"too long": 0, "too many": maxConversions + maxWaiting} {
		c.asked.Store(before)
		_, _, refused := r.convert(agentapi.ConvertRequest{Exporter: "html", Path: "a.ipynb"}, "{}")
		if refused == nil || refused.Code != http.StatusTooManyRequests {
			t.Errorf("%s: refused with %v", what, refused)
		}
	}
}

func TestANotebookThatIsTooLargeIsRefused(t *testing.T) {
	r := startTerminals(t, python(t, "cat >/dev/null"))
	notebook := strings.Repeat(" ", agentapi.MaxNotebookBytes+1)
	_, _, refused := r.convert(agentapi.ConvertRequest{Exporter: "html", Path: "a.ipynb"}, notebook)
	if refused == nil || refused.Code != http.StatusRequestEntityTooLarge {
		t.Errorf("refused with %v", refused)
	}
}

func TestAConverterThatLiesIsNotBelieved(t *testing.T) {
	for name, script := range map[string]string{
		"nothing":                `exit 0`,
		"no JSON":                `echo hello`,
		"a line that is endless": `head -c 200000 /dev/zero`,
		"its own error":          `echo '{"status":200,"message":"fine"}'`,
		"an end":                 `echo oops >&2; exit 3`,
	} {
		t.Run(name, func(t *testing.T) {
			r := startTerminals(t, python(t, script))
			_, _, refused := r.convert(agentapi.ConvertRequest{Exporter: "html", Path: "a.ipynb"}, "{}")
			if refused == nil || refused.Code < 400 {
				t.Errorf("refused with %v", refused)
			}
			if name == "an end" && (refused == nil || !strings.Contains(refused.Message, "oops")) {
				t.Errorf("the message is %v", refused)
			}
		})
	}
}

// A notebook that needs too much memory costs itself, and no terminal.
func TestTheConversionThatTakesTooMuchIsEndedAlone(t *testing.T) {
	greedy := python(t, "head -c 600000000 /dev/zero | tail -c 500000000 | wc -c")
	r := startTerminals(t, func(o *Options) {
		greedy(o)
		o.Config.MemoryBytes = 256 << 20
		o.OwnsDescendants = true
	})
	bystander := r.look(r.newTerminal())
	bystander.shows(prompt)
	_, _, refused := r.convert(agentapi.ConvertRequest{Exporter: "html", Path: "a.ipynb"}, "{}")
	if refused == nil || refused.Code != http.StatusUnprocessableEntity || !strings.Contains(refused.Message, "killed: memory limit 256 MiB") {
		t.Errorf("refused with %v", refused)
	}
	bystander.typed("echo alive$((1+1))\r")
	bystander.shows("alive2")
}

func TestConversionsRunAsTheKernelsUser(t *testing.T) {
	needRoot(t)
	dir, err := os.MkdirTemp("", "python")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	script := "#!/bin/sh\necho \"uid=$(id -u) groups=$(id -G) secret=$SECRET_OF_THE_AGENT. $(cat " + dir + "/../*/config.json 2>/dev/null | wc -c)\" >&2; exit 3\n"
	if err := errors.Join(os.Chmod(dir, 0o755), os.WriteFile(filepath.Join(dir, "python3"), []byte(script), 0o755)); err != nil {
		t.Fatal(err)
	}
	r := startReal(t, func(c *agentapi.Config) {
		*c = agentapi.Config{Token: testToken, Env: map[string]string{"PATH": dir + ":/usr/bin:/bin"}}
	}, "--run-as", "54321:54322")
	_, _, refused := r.convert(agentapi.ConvertRequest{Exporter: "html", Path: "a.ipynb"}, "{}")
	if refused == nil || !strings.Contains(refused.Message, "uid=54321 groups=54322 secret=x. 0") {
		t.Errorf("refused with %v", refused)
	}
}
