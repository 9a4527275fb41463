package kernels_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"kernelgw/kernelgw/kernels"
	"kernelgw/kernelgw/registry/memory"
	"kernelgw/sandboxes"
	"kernelgw/sandboxes/agentapi"
	"kernelgw/sandboxes/sandboxtest"
)

// converts has every agent answer as one that has nbconvert, and counts who asks
// what it can make.
func converts(driver *sandboxtest.Fake, exporters string, convert http.HandlerFunc) (asked *atomic.Int32) {
	asked = &atomic.Int32{}
	driver.OnCreate(func(_ context.Context, _ sandboxes.Spec, a *sandboxtest.Agent) error {
		a.Handle("GET /v1/exporters", func(w http.ResponseWriter, _ *http.Request) {
			asked.Add(1)
			_, _ = io.WriteString(w, exporters)
		})
		if convert != nil {
			a.Handle("POST /v1/convert", convert)
		}
		return nil
	})
	return asked
}

func opened(notebook string) func(context.Context) (io.ReadCloser, error) {
	return func(context.Context) (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(notebook)), nil }
}

func html(workspace string) kernels.ConvertRequest {
	return kernels.ConvertRequest{Workspace: workspace, Owner: "ada", ConvertRequest: agentapi.ConvertRequest{Exporter: "html", Path: "a.ipynb"}}
}

// One workspace's code must not tell another what there is: a sandbox of nobody
// is asked, once for an image.
func TestImageIsAskedOnceForItsExportersInASandboxOfNobody(t *testing.T) {
	driver := sandboxtest.NewFake(t)
	asked := converts(driver, `{"html":{"output_mimetype":"text/html"},"../x":{"output_mimetype":""},"evil":{"output_mimetype":"a\r\nb"}}`, nil)
	g := start(t, driver, memory.New(), func(o *kernels.Options) { o.FilesConfig.MaxFileBytes = 1 })
	var all sync.WaitGroup
	for i := range 4 {
		all.Go(func() {
			found, err := g.Exporters(t.Context(), fmt.Sprint("w", i))
			if err != nil || len(found) != 1 || found["html"].Mimetype != "text/html" {
				t.Errorf("exporters %v, %v", found, err)
			}
		})
	}
	all.Wait()
	if n := asked.Load(); n != 1 {
		t.Errorf("it was asked %d times", n)
	}
	eventually(t, "the sandbox that was asked is gone", func() bool { return len(sandboxesOf(t, driver)) == 0 })
	if list, err := g.List(t.Context(), ""); err != nil || len(list) > 0 {
		t.Errorf("kernels %v, %v", list, err)
	}
}

func TestImageWithoutNbconvertHasNoExporters(t *testing.T) {
	g := start(t, sandboxtest.NewFake(t), memory.New()) // whose agents do not know the question
	if found, err := g.Exporters(t.Context(), "w"); err != nil || len(found) > 0 {
		t.Errorf("exporters %v, %v", found, err)
	}
}

func TestFailedQuestionForExportersIsNotAskedForEveryPage(t *testing.T) {
	driver := sandboxtest.NewFake(t)
	var created atomic.Int32
	driver.OnCreate(func(context.Context, sandboxes.Spec, *sandboxtest.Agent) error {
		created.Add(1)
		return errors.New("no room")
	})
	g := start(t, driver, memory.New())
	for range 3 {
		if _, err := g.Exporters(t.Context(), "w"); !errors.Is(err, kernels.ErrStart) {
			t.Errorf("got %v", err)
		}
	}
	if n := created.Load(); n != 1 {
		t.Errorf("%d sandboxes were tried", n)
	}
}

func TestQuestionForExportersEndsWithItsSandbox(t *testing.T) {
	driver := sandboxtest.NewFake(t)
	driver.OnCreate(func(_ context.Context, _ sandboxes.Spec, a *sandboxtest.Agent) error {
		a.NeverListen()
		return nil
	})
	g := start(t, driver, memory.New())
	done := make(chan error, 1)
	go func() {
		_, err := g.Exporters(t.Context(), "w")
		done <- err
	}()
	eventually(t, "there is a sandbox", func() bool { return len(sandboxesOf(t, driver)) == 1 })
	driver.Kill(onlySandbox(t, driver).Spec.ID, sandboxes.Exit{Code: 1, Reason: "no such program"})
	if err := <-done; !errors.Is(err, kernels.ErrStart) || !strings.Contains(err.Error(), "no such program") {
		t.Errorf("got %v", err)
	}
}

func TestGatewayThatStopsLeavesNoSandboxThatWasAsked(t *testing.T) {
	driver := sandboxtest.NewFake(t)
	asking := make(chan struct{})
	driver.OnCreate(func(_ context.Context, _ sandboxes.Spec, a *sandboxtest.Agent) error {
		a.Handle("GET /v1/exporters", func(_ http.ResponseWriter, r *http.Request) {
			close(asking)
			<-r.Context().Done()
		})
		return nil
	})
	g := start(t, driver, memory.New())
	done := make(chan error, 1)
	go func() {
		_, err := g.Exporters(t.Context(), "w")
		done <- err
	}()
	<-asking
	g.stop()
	if err := <-done; err == nil {
		t.Error("it was answered")
	}
	if left := sandboxesOf(t, driver); len(left) > 0 {
		t.Errorf("left behind: %+v", left)
	}
}

func TestNotebooksAreConvertedInTheSandboxOfTerminals(t *testing.T) {
	driver := sandboxtest.NewFake(t)
	release := make(chan struct{})
	converts(driver, "{}", func(w http.ResponseWriter, r *http.Request) {
		var asked agentapi.ConvertRequest
		body, err := io.ReadAll(r.Body)
		if err != nil || json.Unmarshal([]byte(r.URL.Query().Get("request")), &asked) != nil || asked.Exporter != "html" || string(body) != "{}" {
			t.Errorf("asked for %+v of %q, %v", asked, body, err)
		}
		fmt.Fprintf(w, "{\"mimetype\":\"text/html\",\"filename\":\"ü.html\",\"size\":5}\nfirst")
		w.(http.Flusher).Flush()
		<-release
	})
	g := start(t, driver, memory.New(), func(o *kernels.Options) { o.TerminalLinger = 20 * time.Millisecond })
	d, err := g.Convert(t.Context(), html("w"), opened("{}"))
	if err != nil || d.Mimetype != "text/html" || d.Filename != "ü.html" || d.Attachment {
		t.Fatalf("document %+v, %v", d, err)
	}
	box := onlySandbox(t, driver)
	if !strings.HasPrefix(box.Spec.ID, "t-") {
		t.Errorf("it is converted in %s", box.Spec.ID)
	}
	// Several times the linger: while the document is read, the sandbox stays.
	time.Sleep(100 * time.Millisecond)
	onlySandbox(t, driver)
	if names := g.terminalNames(t, "w"); len(names) > 0 {
		t.Errorf("terminals %v", names)
	}
	content, err := io.ReadAll(d.Content)
	close(release)
	if err != nil || string(content) != "first" {
		t.Errorf("content %q, %v", content, err)
	}
	if err := errors.Join(d.Content.Close(), d.Content.Close()); err != nil {
		t.Error(err)
	}
	eventually(t, "the sandbox is gone", func() bool { return len(sandboxesOf(t, driver)) == 0 })
}

func TestRefusedConversionsLetTheSandboxGo(t *testing.T) {
	driver := sandboxtest.NewFake(t)
	var answer atomic.Pointer[string]
	converts(driver, "{}", func(w http.ResponseWriter, _ *http.Request) {
		status, body, _ := strings.Cut(*answer.Load(), " ")
		code := 0
		fmt.Sscan(status, &code)
		w.WriteHeader(code)
		_, _ = io.WriteString(w, body)
	})
	g := start(t, driver, memory.New(), func(o *kernels.Options) { o.TerminalLinger = 20 * time.Millisecond })
	for _, c := range []struct {
		answer string
		want   error
		says   string
	}{
		{`501 {"message":"no nbconvert"}`, kernels.ErrNoConverter, "no nbconvert"},
		{`404 {"message":"no exporter"}`, kernels.ErrNoExporter, "no exporter"},
		{`422 {"message":"it\nfailed"}`, kernels.ErrConvert, "it failed"},
		{`500 {}`, kernels.ErrConvert, "Internal Server Error"},
		{`400 {"message":"no notebook"}`, kernels.ErrInvalid, "no notebook"},
		{`413 {"message":"large"}`, kernels.ErrTooLarge, "large"},
		{`429 {"message":"3 at once"}`, kernels.ErrLimit, "3 at once"},
		{`410 {"message":"ending"}`, kernels.ErrNotReady, ""},
		// What is no document is the agent's failure.
		{"200 nonsense\n", kernels.ErrAgent, ""},
		{"200 ", kernels.ErrAgent, ""},
		{"200 " + strings.Repeat("x", agentapi.MaxLineBytes+1), kernels.ErrAgent, ""},
		{"200 {\"filename\":\"../x\",\"size\":1}\nx", kernels.ErrAgent, ""},
		{"200 {\"filename\":\"a\\r\\nX: y\",\"size\":1}\nx", kernels.ErrAgent, ""},
		{"200 {\"filename\":\"a\",\"mimetype\":\"text/html; x\",\"size\":1}\nx", kernels.ErrAgent, ""},
		{"200 {\"filename\":\"a\",\"size\":-1}\nx", kernels.ErrAgent, ""},
		{"200 {\"filename\":\"a\",\"size\":999999999999}\nx", kernels.ErrAgent, ""},
	} {
		answer.Store(&c.answer)
		if _, err := g.Convert(t.Context(), html("w"), opened("{}")); !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%.60q: %v", c.answer, err)
		}
	}
	missing := errors.New("no such file")
	if _, err := g.Convert(t.Context(), html("w"), func(context.Context) (io.ReadCloser, error) { return nil, missing }); !errors.Is(err, missing) {
		t.Errorf("a notebook that cannot be opened: %v", err)
	}
	eventually(t, "the sandbox is gone", func() bool { return len(sandboxesOf(t, driver)) == 0 })
}

func TestDocumentThatBreaksOffIsAnError(t *testing.T) {
	driver := sandboxtest.NewFake(t)
	converts(driver, "{}", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "{\"filename\":\"a\",\"size\":10}\nhalf")
	})
	g := start(t, driver, memory.New())
	d, err := g.Convert(t.Context(), html("w"), opened("{}"))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Content.Close()
	if b, err := io.ReadAll(d.Content); !errors.Is(err, agentapi.ErrGone) {
		t.Errorf("%q, %v", b, err)
	}
}
