package kernelgw_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"kernelgw/kernelgw"
	"kernelgw/kernelgw/kernels"
	"kernelgw/kernelgw/outputlog"
	"kernelgw/kernelgw/outputlog/outputlogtest"
)

// printers is a gateway with output logs.
func printers(t *testing.T) (*gateway, *outputlog.Logs, *outputlogtest.Store) {
	t.Helper()
	store := outputlogtest.New()
	logs := outputlog.New(outputlog.Options{Store: store, Log: slog.New(slog.DiscardHandler), Keep: time.Hour})
	return start(t, func(o *kernelgw.Options) { o.OutputLogs = logs }), logs, store
}

// print keeps a part of what a kernel of a session printed.
func printPart(t *testing.T, logs *outputlog.Logs, workspace, session, kernel string, number, from int64, text string) {
	t.Helper()
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	_, _ = io.WriteString(w, text) // to memory
	_ = w.Close()
	p := outputlog.Part{Log: kernel, Run: "20261126t120000000abcdef01", Number: number, From: from, Bytes: int64(len(text)), Begun: time.UnixMilli(1_000_000)}
	if err := logs.Put(t.Context(), workspace, p, packed.Bytes(), []string{session}); err != nil {
		t.Fatal(err)
	}
}

func TestOutputLogsAreReadAlsoAfterTheirSession(t *testing.T) {
	g, logs, _ := printers(t)
	kernel := g.kernel("math")
	session := g.session("math", kernel)
	if r := g.want(g.ada("GET", "/w/math/v1/sessions/"+session+"/logs", ""), 200); strings.TrimSpace(r.body) != `{"parts":[],"bytes":0,"missing":0,"current":true}` {
		t.Errorf("a log of nothing is %s", r.body)
	}
	// What was printed last is stored when somebody asks.
	g.kernels.set(func(f *fakeKernels) {
		f.printed = func(id string) error {
			if id != kernel {
				t.Errorf("kernel %s is asked", id)
			}
			printPart(t, logs, "math", session, kernel, 1, 0, "one\n")
			printPart(t, logs, "math", session, kernel, 3, 10, "three\n")
			return nil
		}
	})
	const text = "one\n\n[6 bytes of output are missing here]\nthree\n"
	const name = "20261126t120000000abcdef01-00000003"
	capability := g.capability("math")
	look := func(when string) {
		t.Helper()
		for _, id := range []string{session, kernel, strings.ToUpper(session)} {
			at := "/v1/sessions/" + id + "/logs"
			for _, r := range []reply{g.ada("GET", "/w/math"+at+"/text", ""), g.do("GET", capability+at+"/text", "")} {
				g.want(r, 200)
				if r.body != text || r.Header.Get("Content-Type") != "text/plain; charset=utf-8" || r.Header.Get("X-Content-Type-Options") != "nosniff" {
					t.Errorf("%s the text of %s is %q, %v", when, id, r.body, r.Header)
				}
			}
			var list struct {
				Parts []struct {
					Name, Kernel         string
					From, Bytes, Missing int64
				}
				Bytes, Missing int64
				Current        bool
			}
			g.want(g.ada("GET", "/w/math"+at, ""), 200).json(t, &list)
			if len(list.Parts) != 2 || list.Parts[1].Name != name || list.Parts[1].From != 10 || list.Parts[1].Missing != 6 || list.Parts[1].Kernel != kernel ||
				list.Bytes != 10 || list.Missing != 6 || !list.Current {
				t.Errorf("%s the list of %s is %+v", when, id, list)
			}
			r := g.want(g.ada("GET", "/w/math"+at+"/"+name, ""), 200)
			packed, err := gzip.NewReader(strings.NewReader(r.body))
			if err != nil {
				t.Fatal(err)
			}
			if part, err := io.ReadAll(packed); string(part) != "three\n" || err != nil || r.Header.Get("Content-Type") != "application/gzip" {
				t.Errorf("%s part %s of %s is %q, %v, %v", when, name, id, part, err, r.Header)
			}
			g.want(g.ada("GET", "/w/math"+at+"/20261126t120000000abcdef01-00000002", ""), 404)
		}
	}
	look("now")
	g.want(g.ada("DELETE", "/w/math/api/sessions/"+session, ""), 204)
	look("after its end")

	for _, id := range []string{session, kernel} {
		for _, end := range []string{"", "/text", "/" + name} {
			at := "/v1/sessions/" + id + "/logs" + end
			for _, r := range []reply{
				g.ada("GET", "/w/team"+at, ""), // another workspace of hers
				g.do("GET", at, "", "Authorization: token "+bobToken), g.do("GET", "/w/math"+at, "", "Authorization: token "+bobToken),
			} {
				g.want(r, 404)
			}
			g.want(g.do("GET", "/w/math"+at, ""), 403)
		}
	}
	for _, id := range []string{"00000000-0000-4000-8000-000000000000", "x", "..%2f"} {
		g.want(g.ada("GET", "/w/math/v1/sessions/"+id+"/logs", ""), 404)
	}
}

func TestALogThatLacksWhatWasPrintedLastSaysSo(t *testing.T) {
	g, logs, store := printers(t)
	kernel := g.kernel("math")
	session := g.session("math", kernel)
	printPart(t, logs, "math", session, kernel, 1, 0, "one\n")
	g.kernels.set(func(f *fakeKernels) {
		f.printed = func(string) error { return fmt.Errorf("%w: it is frozen", kernels.ErrAgent) }
	})
	at := "/w/math/v1/sessions/" + session + "/logs"
	if r := g.want(g.ada("GET", at+"/text", ""), 200); r.body != "one\n\n[what was printed last cannot be read now]\n" {
		t.Errorf("the text is %q", r.body)
	}
	if r := g.want(g.ada("GET", at, ""), 200); !strings.Contains(r.body, `"current":false`) {
		t.Errorf("the list is %s", r.body)
	}
	g.kernels.set(func(f *fakeKernels) {
		f.printed = func(string) error { return fmt.Errorf("%w: adopting", kernels.ErrNotReady) }
	})
	g.want(g.ada("GET", at, ""), 503)
	g.kernels.set(func(f *fakeKernels) { f.printed = nil })
	store.Fail = errors.New("no storage")
	for _, end := range []string{"", "/text", "/x-00000001"} {
		if r := g.want(g.ada("GET", at+end, ""), 503); strings.Contains(r.body, "no storage") {
			t.Errorf("the answer is %s", r.body)
		}
	}
}

func TestAServerWithoutOutputLogsHasNone(t *testing.T) {
	g := start(t)
	kernel := g.kernel("math")
	if r := g.want(g.ada("GET", "/w/math/v1/sessions/"+kernel+"/logs", ""), http.StatusNotFound); !strings.Contains(r.body, "keeps no output logs") {
		t.Errorf("the answer is %s", r.body)
	}
}

// stuck is a storage that does not answer.
type stuck struct {
	*outputlogtest.Store
	asked chan struct{}
}

func (s stuck) EachAside(ctx context.Context, _, _ string, _ func(string, int64, time.Time) error) error {
	s.asked <- struct{}{}
	<-ctx.Done()
	return ctx.Err()
}

func TestADrainWaitsForNoReaderOfALog(t *testing.T) {
	store := stuck{outputlogtest.New(), make(chan struct{})}
	logs := outputlog.New(outputlog.Options{Store: store, Log: slog.New(slog.DiscardHandler), Keep: time.Hour})
	g := start(t, func(o *kernelgw.Options) { o.OutputLogs = logs })
	kernel := g.kernel("math")
	ends := []string{"", "/text", "/x-00000001"}
	answers := make(chan reply, len(ends))
	for _, end := range ends {
		go func() { answers <- g.ada("GET", "/w/math/v1/sessions/"+kernel+"/logs"+end, "") }()
		<-store.asked
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := g.server.Drain(ctx); err != nil || ctx.Err() != nil {
		t.Errorf("the drain waited: %v", err)
	}
	for range ends {
		if r := <-answers; r.StatusCode != 503 {
			t.Errorf("the answer is %d %s", r.StatusCode, r.body)
		}
	}
}
