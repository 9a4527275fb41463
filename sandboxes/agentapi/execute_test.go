package agentapi

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

func TestExecutionsReachTheAgent(t *testing.T) {
	var asked []string
	c := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		asked = append(asked, r.Method+" "+r.URL.RequestURI()+" "+string(body))
		one := `{"id":"a","state":"running","queued":"2026-11-26T11:00:00Z"}`
		switch {
		case r.Method == http.MethodDelete || strings.HasSuffix(r.URL.Path, "/input"):
			w.WriteHeader(http.StatusNoContent)
		case r.Method == http.MethodGet && r.URL.Path == "/v1/executions":
			io.WriteString(w, "["+one+"]")
		default:
			io.WriteString(w, one+"\n")
			if r.URL.Query().Get("outputs") == "1" {
				io.WriteString(w, `[{"output_type":"stream"}]`)
			}
		}
	}))
	ctx := t.Context()
	e, err := c.Execute(ctx, ExecuteRequest{ID: "a", Code: "<1>", AllowStdin: true})
	if err != nil || e.State != ExecutionRunning {
		t.Errorf("%+v, %v", e, err)
	}
	if _, err := c.WaitExecution(ctx, "a", 1500*time.Millisecond); err != nil {
		t.Error(err)
	}
	if e, outputs, err := c.Execution(ctx, "a", endlessRoom); err != nil || e.ID != "a" || string(outputs) != `[{"output_type":"stream"}]` {
		t.Errorf("%+v %s %v", e, outputs, err)
	}
	if list, err := c.Executions(ctx); err != nil || len(list) != 1 {
		t.Errorf("%+v %v", list, err)
	}
	if err := errors.Join(c.CancelExecution(ctx, "a"), c.ReplyInput(ctx, "42")); err != nil {
		t.Error(err)
	}
	want := []string{
		`POST /v1/executions {"id":"a","code":"\u003c1\u003e","allow_stdin":true,"stop_on_error":false,"store_history":false,"silent":false}`,
		`GET /v1/executions/a?wait=1.500 `, `GET /v1/executions/a?outputs=1 `, `GET /v1/executions `, `DELETE /v1/executions/a `, `POST /v1/executions/input {"value":"42"}`,
	}
	if got := strings.Join(asked, "\n"); got != strings.Join(want, "\n") {
		t.Errorf("the agent was asked\n%s", got)
	}
}

func TestExecutionsOfAnAgentThatLies(t *testing.T) {
	for name, answer := range map[string]string{
		"another id":       `{"id":"b","state":"done"}`,
		"no state":         `{"id":"a","state":"paused"}`,
		"no status":        `{"id":"a","state":"done","status":"<b>"}`,
		"asks nothing":     `{"id":"a","state":"input"}`,
		"header is a list": `{"id":"a","state":"input","input":{"header":[]}}`,
		"answers itself":   `{"id":"a","state":"done","input":{"header":{}}}`,
		"long context":     `{"id":"a","state":"done","cell_id":"` + strings.Repeat("x", maxContextBytes+1) + `"}`,
		"long line":        `{"id":"a","state":"done","problem":"` + strings.Repeat("x", 2<<20) + `"}`,
		"no JSON":          `{`,
	} {
		c := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, answer+"\n[]") }))
		if _, _, err := c.Execution(t.Context(), "a", endlessRoom); !errors.Is(err, ErrLies) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := c.Execute(t.Context(), ExecuteRequest{ID: "a"}); !errors.Is(err, ErrLies) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, outputs := range map[string]string{"none": "", "an object": "{}", "half": "[", "more": "[] []", "no UTF-8": "[\"\xff\"]"} {
		c := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			io.WriteString(w, `{"id":"a","state":"done"}`+"\n"+outputs)
		}))
		if _, _, err := c.Execution(t.Context(), "a", endlessRoom); !errors.Is(err, ErrLies) {
			t.Errorf("outputs that are %s: %v", name, err)
		}
	}
}

// Times that cannot be are told as now, and an error always has its traceback.
func TestExecutionsAreMadeShowable(t *testing.T) {
	c := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, `{"id":"a","state":"done","error":{"name":"E"},"queued":"9999-01-01T00:00:00Z","started":"0900-01-01T00:00:00Z"}`+"\n[]")
	}))
	before := time.Now()
	e, _, err := c.Execution(t.Context(), "a", endlessRoom)
	if err != nil || e.Error.Traceback == nil || e.Queued.Before(before) || e.Queued.After(time.Now()) || e.Started.Before(before) || !e.Finished.IsZero() {
		t.Errorf("%+v, %v", e, err)
	}
}

func endlessRoom(context.Context, int) error { return nil }

// An answer has as much memory as it was given, and ends where there is none.
func TestOutputsTakeTheRoomThatThereIs(t *testing.T) {
	var sent int
	c := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, `{"id":"a","state":"done"}`+"\n[")
		io.WriteString(w, strings.Repeat(" ", sent-2)+"]")
	}))
	const small = firstOutputs
	for _, test := range []struct {
		bytes, most int
		full, lies  bool
	}{
		{bytes: 2},
		{bytes: small},
		{bytes: 10 * small, most: 16 * (small + 1)},
		{bytes: 10 * small, full: true},
		{bytes: MaxOutputBytes, most: MaxOutputBytes + 1},
		{bytes: MaxOutputBytes + 1, most: MaxOutputBytes + 1, lies: true},
		{bytes: 2 * MaxOutputBytes, most: MaxOutputBytes + 1, lies: true},
	} {
		sent = test.bytes
		taken := 0
		_, outputs, err := c.Execution(t.Context(), "a", func(_ context.Context, more int) error {
			if taken += more; taken > test.most {
				return errors.New("full")
			}
			return nil
		})
		var full *RoomError
		if errors.As(err, &full) != test.full || errors.Is(err, ErrLies) != test.lies || (err == nil) == (test.full || test.lies) {
			t.Errorf("%d bytes, room for %d: %v", test.bytes, test.most, err)
		}
		if err == nil && len(outputs) != test.bytes {
			t.Errorf("%d of %d bytes", len(outputs), test.bytes)
		}
	}
}

func FuzzExecution(f *testing.F) {
	for _, seed := range []string{
		`{"id":"a","state":"done","status":"ok","execution_count":1,"queued":"2026-11-26T11:00:00Z"}` + "\n" + `[{"output_type":"stream","name":"stdout","text":"a"}]`,
		`{"id":"a","state":"input","input":{"header":{"msg_id":"x"},"prompt":"?","password":true}}` + "\n[]", "null\n[]", "\n", "", "[]\n[]",
		`{"id":"../a","state":"done"}` + "\n[]", `{"id":"a","state":"done","execution_count":1e99}` + "\n[]", `{"id":"a","state":"done","input":{"header":null}}` + "\n[]",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, answer string) {
		e, outputs, err := readExecution(strings.NewReader(answer), func(int) error { return nil })
		if err == nil {
			err = e.named("a")
		}
		if err != nil {
			if !errors.Is(err, ErrLies) && !errors.Is(err, io.EOF) {
				t.Errorf("an error of nobody: %v", err)
			}
			return
		}
		if e.ID != "a" || (e.State == ExecutionInput) != (e.Input != nil) || e.Queued.After(time.Now()) {
			t.Errorf("believed %+v", e)
		}
		var list []json.RawMessage
		if !utf8.Valid(outputs) || json.Unmarshal(outputs, &list) != nil {
			t.Errorf("outputs %q", outputs)
		}
		if _, err := json.Marshal(e); err != nil {
			t.Error(err)
		}
	})
}
