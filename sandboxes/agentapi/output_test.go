package agentapi

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestOutputIsAskedForAsItWasMeant(t *testing.T) {
	var asked []string
	c := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.URL.String()+" "+r.Header.Get("Authorization"))
		_, _ = io.WriteString(w, "as it is")
	}))
	r := OutputRequest{Place: "e-1&x=y", Channels: "iopub,shell", Limit: "7"}
	for _, open := range []func(context.Context, OutputRequest) (io.ReadCloser, error){c.Stream, c.Output} {
		body, err := open(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		if all, err := io.ReadAll(body); err != nil || string(all) != "as it is" {
			t.Errorf("%q %v", all, err)
		}
		body.Close()
	}
	query := "?channels=iopub%2Cshell&last_event_id=e-1%26x%3Dy&limit=7 Bearer secret"
	if got, want := strings.Join(asked, "\n"), "/v1/stream"+query+"\n/v1/output"+query; got != want {
		t.Errorf("the agent was asked\n%s\nwant\n%s", got, want)
	}
}

func TestOutputThatIsRefusedHasTheStatus(t *testing.T) {
	c := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusGone) }))
	_, err := c.Stream(t.Context(), OutputRequest{})
	var refused *StatusError
	if !errors.As(err, &refused) || refused.Code != http.StatusGone {
		t.Errorf("got %v", err)
	}
}

// A stream may be silent, but not before its answer.
func TestStreamThatDoesNotBeginIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &Client{Token: "t", dial: pipeDialer(t, func(conn net.Conn) { _, _ = conn.Read(make([]byte, 1)) })}
		began := time.Now()
		if _, err := c.Stream(t.Context(), OutputRequest{}); !errors.Is(err, ErrGone) {
			t.Errorf("got %v", err)
		}
		if took := time.Since(began); took != callTimeout {
			t.Errorf("given up after %v", took)
		}
		synctest.Wait()
	})
}

func TestAStreamThatIsClosedIsReadNoMore(t *testing.T) {
	c := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}))
	body, err := c.Stream(t.Context(), OutputRequest{})
	if err != nil {
		t.Fatal(err)
	}
	read := make(chan error)
	go func() {
		_, err := body.Read(make([]byte, 1))
		read <- err
	}()
	body.Close()
	if err := <-read; err == nil {
		t.Error("a byte came of nothing")
	}
}

func TestAgentThatLiesWithAnEndlessPage(t *testing.T) {
	page := &pageBody{&outputBody{io.NopCloser(endless{}), func(error) {}}, 1000, time.Minute}
	if n, err := io.Copy(io.Discard, page); n != 1000 || !errors.Is(err, ErrLies) {
		t.Errorf("%d bytes, %v", n, err)
	}
}

// The time that a page takes is that of its agent; its reader may take its own.
func TestAgentThatDripsAPage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &Client{Token: "t", dial: pipeDialer(t, func(conn net.Conn) {
			go func() { _, _ = io.Copy(io.Discard, conn) }()
			for answer := "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"; ; answer = "x" {
				if _, err := io.WriteString(conn, answer); err != nil {
					return
				}
				time.Sleep(5 * time.Second)
			}
		})}
		page, err := c.Output(t.Context(), OutputRequest{})
		if err != nil {
			t.Fatal(err)
		}
		began, busy := time.Now(), time.Duration(0)
		for {
			n, err := page.Read(make([]byte, 100))
			if errors.Is(err, ErrGone) {
				break
			}
			if err != nil || n == 0 {
				t.Fatalf("%d bytes, %v", n, err)
			}
			if busy == 0 {
				busy = 10 * outputsTimeout
				time.Sleep(busy)
			}
		}
		if took := time.Since(began) - busy; took != outputsTimeout {
			t.Errorf("given up after %v", took)
		}
		page.Close()
		time.Sleep(time.Minute) // the agent notices
	})
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }
