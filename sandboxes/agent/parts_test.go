package agent

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"kernelgw/jupyter"
	"kernelgw/jupyter/wsproto"
	"kernelgw/sandboxes/agentapi"
)

// line is what the fake kernel's print says.
func line(i, size int) string {
	text := fmt.Sprintf("%d ", i)
	return text + strings.Repeat("x", max(0, size-len(text)-1)) + "\n"
}

// printedText fetches all that the kernel has printed, in how many parts it came.
func (r *running) printedText() (text string, parts int) {
	r.t.Helper()
	r.agent.sealOutput() // who asks for it may have to wait
	for {
		p, content, err := r.client().LogPart(context.Background())
		if errors.Is(err, agentapi.ErrNoPart) {
			return text, parts
		}
		if err != nil {
			r.t.Fatal(err)
		}
		text += unpacked(r.t, content)
		parts++
		if err := r.client().LogStored(context.Background(), p.Number); err != nil {
			r.t.Fatal(err)
		}
	}
}

func unpacked(t testing.TB, content []byte) string {
	t.Helper()
	packed, err := gzip.NewReader(bytes.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(packed)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func withOutputLog(o *Options) { o.Config.OutputLog = &agentapi.OutputLogConfig{} }

func TestAPartIsGivenUntilItIsStored(t *testing.T) {
	r := start(t, withOutputLog)
	p := r.connect("s", wsproto.V1)
	p.cell(p.execute("say one\nwarn two"))
	if n := r.now().LogParts; n != 0 {
		t.Errorf("%d parts wait of what is young", n)
	}
	for range 2 { // what is asked for twice is there once
		if err := r.client().SealLog(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	r.status("of one part", func(s agentapi.Status) bool { return s.LogParts == 1 })
	for range 3 {
		part, content, err := r.client().LogPart(context.Background())
		if err != nil || part.Number != 1 || part.From != 0 || unpacked(t, content) != "one\ntwo\n" {
			t.Fatalf("the part is %+v, %v", part, err)
		}
	}
	if err := r.client().LogStored(context.Background(), 1); err != nil {
		t.Fatal(err)
	}
	p.cell(p.execute("say three"))
	if text, parts := r.printedText(); text != "three\n" || parts != 1 {
		t.Errorf("then there is %q in %d parts", text, parts)
	}
	for path, want := range map[string]int{"/v1/log/parts/x": 400, "/v1/log/parts/-1": 204, "/v1/log/parts/99999": 204} {
		if code, _ := r.call("DELETE", path); code != want {
			t.Errorf("DELETE %s is %d, want %d", path, code, want)
		}
	}
}

func TestAnAgentWithoutAnOutputLogHasNone(t *testing.T) {
	r := start(t, nil)
	p := r.connect("s", wsproto.V1)
	p.cell(p.execute("say one"))
	var refused *agentapi.StatusError
	if _, _, err := r.client().LogPart(context.Background()); !errors.As(err, &refused) || refused.Code != 404 {
		t.Errorf("a part is %v", err)
	}
}

func TestTheEndOfAKernelWaitsForItsOutputToBeStored(t *testing.T) {
	r := start(t, withOutputLog)
	p := r.connect("s", wsproto.V1)
	text := make(chan string, 1)
	go func() { // as the gateway does it
		got := ""
		_ = r.client().Watch(context.Background(), func(s agentapi.Status) {
			for range s.LogParts {
				part, content, err := r.client().LogPart(context.Background())
				if err == nil {
					got += unpacked(t, content)
					err = r.client().LogStored(context.Background(), part.Number)
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
		text <- got
	}()
	r.status("watched", func(agentapi.Status) bool { return r.agent.watched.Load() > 0 })
	p.cell(p.execute("say last words"))
	if err := r.client().Shutdown(context.Background()); err != nil {
		t.Fatal(err)
	}
	if got := <-text; got != "last words\n" {
		t.Errorf("stored was %q", got)
	}
}

// printing runs the output log of an agent without a kernel until the test ends. It
// is for a bubble of synctest.
func printing(t *testing.T) (a *Agent, say func(text string)) {
	o := Options{RuntimeDir: t.TempDir(), Log: slog.New(slog.DiscardHandler)}
	o.Config.OutputLog = &agentapi.OutputLogConfig{SpoolBytes: 1 << 20}
	a = &Agent{opts: o, hub: newHub(&o, func() {}), sealing: make(chan struct{}, 1)}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		a.keepOutput(ctx)
	}()
	t.Cleanup(func() {
		stop()
		<-ended
	})
	return a, func(text string) {
		h := a.hub
		h.fromKernel(jupyter.NewStream("stdout", text, "k", []byte(`{"msg_id":"a"}`)), []byte("own"))
	}
}

func TestThoseWhoAskForPartsAtOnceWaitForOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, say := printing(t)
		var asking sync.WaitGroup
		ask := func() {
			asking.Go(func() {
				if err := a.sealOnDemand(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		begin := time.Now()
		say("one")
		ask()
		asking.Wait()
		say("two")
		for range 20 {
			ask()
		}
		asking.Wait()
		if took := time.Since(begin); took > sealEvery || a.hub.output.Parts() != 2 {
			t.Errorf("%d parts were made in %v", a.hub.output.Parts(), took)
		}
		say("three")
		ask()
		time.Sleep(time.Second)
		ask() // it has the part of who waits
		asking.Wait()
		if took := time.Since(begin); took > 2*sealEvery || a.hub.output.Parts() != 3 || a.hub.output.Open() {
			t.Errorf("%d parts were made in %v", a.hub.output.Parts(), took)
		}
		say("four")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := a.sealOnDemand(ctx); err == nil {
			t.Error("a part was made too soon")
		}
	})
}

func TestTheEndOfAKernelWaitsForNobodyWhoDoesNotCome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, say := printing(t)
		end := func() time.Duration {
			a.watched.Store(time.Now().UnixNano())
			begin := time.Now()
			a.sealOutput()
			a.saveOutput()
			return time.Since(begin)
		}
		say("one")
		if took := end(); took < lastParts {
			t.Errorf("it waited %v for the first part", took)
		}
		time.Sleep(partPatience)
		say("two")
		if took := end(); took > time.Second {
			t.Errorf("it waited %v for parts that nobody wanted", took)
		}
		p, _, ok := a.hub.output.Oldest() // somebody comes
		if took := end(); !ok || took < lastParts {
			t.Errorf("it waited %v", took)
		}
		a.hub.output.Stored(p.Number + 1)
		if took := end(); took > time.Second {
			t.Errorf("it waited %v for nothing", took)
		}
	})
}
