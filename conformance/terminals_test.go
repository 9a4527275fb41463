package conformance

import (
	"encoding/json"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"kernelgw/conformance/probe"
)

var terminalChecks = []check{
	{name: "TerminalIsMadeListedAndDeleted", run: terminalLifecycle},
	{name: "TerminalRunsCommands", run: terminalRuns},
	{name: "TerminalReplaysOnReconnect", run: terminalReplays},
	{name: "TerminalIsSharedByItsSockets", run: terminalShared},
	{name: "TerminalTellsItsSize", run: terminalSize},
	{name: "TerminalEndsWithItsShell", run: terminalEnds},
	{name: "TerminalOfUnknownNameIs404", run: terminalUnknown},
	{name: "TerminalNeedsCredentials", run: terminalCredentials},
	{
		name: "TerminalOutlivesNonsense", run: terminalNonsense,
		extension: &extension{because: "malformed frames end the socket", fails: "the socket ended|cannot send|broken pipe"},
	},
}

type terminal struct {
	Name         string `json:"name"`
	LastActivity string `json:"last_activity"`
}

// newTerminal makes one with a name that no other check gets: servers give
// the numbers of terminals that are gone again.
func newTerminal(t testing.TB, s *target) terminal {
	t.Helper()
	var made terminal
	wanted := "t" + strings.ReplaceAll(probe.ID(), "-", "")
	s.Do(t, "POST", "api/terminals", map[string]string{"name": wanted}).Want(t, 200).Decode(t, &made)
	if made.Name != wanted || made.LastActivity == "" {
		t.Fatalf("the new terminal is %+v", made)
	}
	t.Cleanup(func() { _ = s.Delete("api/terminals/" + made.Name) })
	return made
}

// openTerminal opens the socket of a terminal; the first frame is its setup.
func openTerminal(t testing.TB, s *target, name string) *probe.Plain {
	t.Helper()
	w := s.Plain(t, "terminals/websocket/"+name)
	var setup []json.RawMessage
	if frame := w.Next(t, probe.Patience); json.Unmarshal(frame, &setup) != nil || len(setup) != 2 || string(setup[0]) != `"setup"` {
		t.Fatalf("the first frame is %s, want a setup", frame)
	}
	return w
}

// see reads a terminal until its output matches, and returns all of it.
func see(t testing.TB, w *probe.Plain, pattern string) string {
	t.Helper()
	wanted := regexp.MustCompile(pattern)
	var all strings.Builder
	for deadline := time.Now().Add(probe.Patience); !wanted.MatchString(all.String()); {
		if time.Now().After(deadline) {
			t.Fatalf("the terminal shows %q, want %s", all.String(), pattern)
		}
		var frame []any
		raw, ok := w.Within(t, time.Until(deadline))
		if !ok {
			continue
		}
		if json.Unmarshal(raw, &frame) != nil || len(frame) < 2 {
			t.Fatalf("the frame %s is no array of two", raw)
		}
		if frame[0] == "stdout" {
			all.WriteString(frame[1].(string))
		}
	}
	return all.String()
}

func terminalLifecycle(t testing.TB, s *target) {
	var made terminal
	s.Do(t, "POST", "api/terminals", "{}").Want(t, 200).Decode(t, &made)
	if !regexp.MustCompile(`^\w+$`).MatchString(made.Name) || made.LastActivity == "" {
		t.Fatalf("the new terminal is %+v", made)
	}
	at := "api/terminals/" + made.Name
	var got terminal
	s.Do(t, "GET", at, nil).Want(t, 200).Decode(t, &got)
	if got.Name != made.Name {
		t.Errorf("%s is %+v", at, got)
	}
	listed := func() bool {
		var list []terminal
		s.Do(t, "GET", "api/terminals?1795502306591", nil).Want(t, 200).Decode(t, &list)
		for _, one := range list {
			if one.Name == made.Name {
				return true
			}
		}
		return false
	}
	if !listed() {
		t.Error("the terminal is not listed")
	}
	s.Do(t, "DELETE", at, nil).Want(t, 204)
	s.Do(t, "GET", at, nil).Want(t, 404)
	s.Do(t, "DELETE", at, nil).Want(t, 404)
	if listed() {
		t.Error("a deleted terminal is listed")
	}
}

func terminalRuns(t testing.TB, s *target) {
	w := openTerminal(t, s, newTerminal(t, s).Name)
	w.Send(t, []any{"stdin", "echo $((6*7))ü\r"})
	see(t, w, `42ü\r`)
	// Printed by what is to be interrupted, so that it is in front by then.
	w.Send(t, []any{"stdin", "sh -c 'echo go$((1+1)); exec sleep 60'; echo slept\r"})
	see(t, w, "go2")
	w.Send(t, []any{"stdin", "\x03"})
	w.Send(t, []any{"stdin", "echo after$((1+1))\r"})
	if all := see(t, w, "after2"); strings.Contains(all, "slept\r") {
		t.Errorf("an interrupt does not reach the command: %q", all)
	}
}

func terminalReplays(t testing.TB, s *target) {
	name := newTerminal(t, s).Name
	w := openTerminal(t, s, name)
	w.Send(t, []any{"stdin", "echo first$((1+1))\r"})
	see(t, w, "first2")
	w.Close()
	w = openTerminal(t, s, name)
	see(t, w, "first2")
	w.Send(t, []any{"stdin", "echo second$((1+1))\r"})
	see(t, w, "second2")
}

func terminalShared(t testing.TB, s *target) {
	name := newTerminal(t, s).Name
	a, b := openTerminal(t, s, name), openTerminal(t, s, name)
	a.Send(t, []any{"stdin", "echo both$((1+1))\r"})
	see(t, a, "both2")
	see(t, b, "both2")
	other := openTerminal(t, s, newTerminal(t, s).Name)
	other.Send(t, []any{"stdin", "echo other$((1+1))\r"})
	if got := see(t, other, "other2"); strings.Contains(got, "both2") {
		t.Errorf("two terminals share their output: %q", got)
	}
}

func terminalSize(t testing.TB, s *target) {
	w := openTerminal(t, s, newTerminal(t, s).Name)
	w.Send(t, []any{"set_size", 31, 97, 600, 900})
	w.Send(t, []any{"stdin", "stty size\r"})
	see(t, w, "31 97")
}

func terminalEnds(t testing.TB, s *target) {
	name := newTerminal(t, s).Name
	w := openTerminal(t, s, name)
	w.Send(t, []any{"stdin", "exit\r"})
	for disconnected := false; !disconnected; {
		var frame []any
		if err := json.Unmarshal(w.Next(t, probe.Patience), &frame); err != nil {
			t.Fatal(err)
		}
		disconnected = len(frame) == 2 && frame[0] == "disconnect"
	}
	w.WaitClosed(t, probe.Patience)
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if s.Do(t, "GET", "api/terminals/"+name, nil).Status == 404 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("a terminal whose shell has ended is still there")
		}
	}
}

func terminalUnknown(t testing.TB, s *target) {
	for _, name := range []string{"999", "no-such", "..%2f1"} {
		s.Do(t, "GET", "api/terminals/"+name, nil).Want(t, 404)
		w, resp, err := s.TryPlain(t, "terminals/websocket/"+name, nil)
		if err == nil {
			w.Close()
			t.Errorf("the socket of terminal %s opens", name)
		} else if resp == nil || resp.StatusCode != 404 {
			t.Errorf("the socket of terminal %s: %v (%+v)", name, err, resp)
		}
	}
}

func terminalCredentials(t testing.TB, s *target) {
	name := newTerminal(t, s).Name
	cookies := login(t, s)
	foreign := cookieHeader(cookies)
	foreign.Set("Origin", "http://evil.example")
	for what, header := range map[string]http.Header{
		"none": {}, "a wrong token": {"Authorization": {"token wrong"}}, "a cookie from elsewhere": foreign,
	} {
		w, resp, err := s.TryPlain(t, "terminals/websocket/"+name, header)
		if err == nil {
			w.Close()
			t.Errorf("with %s the socket opens", what)
		} else if resp == nil || resp.StatusCode != 403 {
			t.Errorf("with %s: %v (%+v), want 403", what, err, resp)
		}
	}
	w, _, err := s.TryPlain(t, probe.Query("terminals/websocket/"+name, "token", s.Token), http.Header{})
	if err != nil {
		t.Fatalf("with ?token=: %v", err)
	}
	w.Next(t, probe.Patience)
	s.Do(t, "POST", "api/terminals", "{}", probe.WithCookies(cookies)).Want(t, 403)
}

func terminalNonsense(t testing.TB, s *target) {
	w := openTerminal(t, s, newTerminal(t, s).Name)
	for _, frame := range []string{
		"", "{", "null", "[]", "[1]", `["stdin"]`, `["stdin",7]`, `["set_size"]`, `["set_size","a","b"]`, `["set_size",-1,-1]`,
		`["set_size",1e99,1e99]`, `["nonsense","x"]`, `{"stdin":"x"}`, strings.Repeat("[", 5000),
	} {
		w.Send(t, frame)
	}
	w.Send(t, []any{"stdin", "echo still$((1+1))\r"})
	see(t, w, "still2")
}
