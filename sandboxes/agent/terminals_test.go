package agent

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"golang.org/x/sys/unix"

	"kernelgw/jupyter"
	"kernelgw/sandboxes/agentapi"
)

// prompt is what bash writes before one: it turns bracketed paste on.
const prompt = "\x1b[?2004h"

// startTerminals runs an agent without a kernel.
func startTerminals(t testing.TB, change func(*Options)) *running {
	t.Helper()
	t.Setenv("SHELL", "/bin/bash")
	t.Setenv("HOME", t.TempDir()) // without anybody's .bashrc
	return start(t, func(o *Options) {
		o.Config = agentapi.Config{Token: testToken, KernelID: "t1", Env: map[string]string{"PS1": "$ ", "HISTFILE": ""}}
		if change != nil {
			change(o)
		}
	})
}

// post starts a terminal and returns the status and its name.
func (r *running) post(body string) (int, string) {
	r.t.Helper()
	req, err := http.NewRequest(http.MethodPost, "http://agent/v1/terminals", strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+testToken)
	resp, err := r.http.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	var model agentapi.Terminal
	b, err := io.ReadAll(resp.Body)
	if err != nil || json.Unmarshal(b, &model) != nil {
		r.t.Fatalf("POST: %d %s", resp.StatusCode, b)
	}
	return resp.StatusCode, model.Name
}

func (r *running) newTerminal() string {
	r.t.Helper()
	status, name := r.post("{}")
	if status != http.StatusOK || name == "" {
		r.t.Fatalf("POST /v1/terminals: %d, name %q", status, name)
	}
	return name
}

func (r *running) names() (names []string) {
	r.t.Helper()
	status, body := r.call(http.MethodGet, "/v1/terminals")
	var list []agentapi.Terminal
	if err := json.Unmarshal(body, &list); err != nil || status != http.StatusOK {
		r.t.Fatalf("GET: %d %s", status, body)
	}
	for _, m := range list {
		names = append(names, m.Name)
		if time.Since(m.LastActivity) > time.Hour || m.LastActivity.Location() != time.UTC {
			r.t.Errorf("last activity of %s: %v", m.Name, m.LastActivity)
		}
	}
	return names
}

// screen is a client that looks at a terminal and answers pings.
type screen struct {
	t      testing.TB
	ws     *websocket.Conn
	ended  chan struct{} // closed when the connection is over
	mu     sync.Mutex
	first  string          // of the messages; guarded by mu
	text   strings.Builder // of stdout; guarded by mu
	news   chan struct{}   // capacity 1
	gone   bool            // "disconnect" came; guarded by mu
	err    error           // guarded by mu
	closed int             // code of the close frame; guarded by mu
}

// look opens a terminal's WebSocket.
func (r *running) look(name string) *screen {
	r.t.Helper()
	ws := r.dialTerminal(name)
	s := &screen{t: r.t, ws: ws, ended: make(chan struct{}), news: make(chan struct{}, 1)}
	go s.read()
	r.t.Cleanup(s.leave)
	return s
}

func (r *running) dialTerminal(name string) *websocket.Conn {
	r.t.Helper()
	d := websocket.Dialer{NetDialContext: r.dialContext}
	ws, resp, err := d.Dial("ws://agent"+agentapi.TerminalSocket(name), http.Header{"Authorization": {"Bearer " + testToken}})
	if err != nil {
		status := 0
		if resp != nil {
			status = resp.StatusCode
		}
		r.t.Fatalf("cannot look at terminal %s: %v (%d)", name, err, status)
	}
	return ws
}

func (s *screen) leave() { s.ws.Close(); <-s.ended }

func (s *screen) read() {
	defer close(s.ended)
	for {
		kind, b, err := s.ws.ReadMessage()
		s.mu.Lock()
		if err != nil {
			s.err = err
			if ce := (&websocket.CloseError{}); asClose(err, &ce) {
				s.closed = ce.Code
			}
			s.mu.Unlock()
			s.tell()
			return
		}
		var m []json.RawMessage
		var what, text string
		if kind != websocket.TextMessage || json.Unmarshal(b, &m) != nil || len(m) != 2 || json.Unmarshal(m[0], &what) != nil {
			s.t.Errorf("not a message of terminado: %q", b)
		}
		if s.first == "" {
			s.first = string(b)
		}
		switch what {
		case "stdout":
			if json.Unmarshal(m[1], &text) != nil {
				s.t.Errorf("no text: %q", b)
			}
			s.text.WriteString(text)
		case "disconnect":
			s.gone = true
		}
		s.mu.Unlock()
		s.tell()
	}
}

func asClose(err error, to **websocket.CloseError) bool {
	ce, ok := err.(*websocket.CloseError)
	if ok {
		*to = ce
	}
	return ok
}

func (s *screen) tell() {
	select {
	case s.news <- struct{}{}:
	default:
	}
}

// until waits for the screen to be as wanted.
func (s *screen) until(what string, holds func(text string, s *screen) bool) {
	s.t.Helper()
	timeout := time.After(patience)
	for {
		s.mu.Lock()
		text := s.text.String()
		ok := holds(text, s)
		s.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-s.news:
		case <-timeout:
			s.t.Fatalf("the terminal is never %s: %q", what, text[max(0, len(text)-2000):])
		}
	}
}

func (s *screen) shows(text string) {
	s.t.Helper()
	s.until("showing "+text, func(all string, _ *screen) bool { return strings.Contains(all, text) })
}

// numbers waits for a match and returns the numbers, separated by commas, in its
// group.
func (s *screen) numbers(pattern string) (found []int) {
	s.t.Helper()
	wanted := regexp.MustCompile(pattern)
	s.until("showing "+pattern, func(text string, _ *screen) bool {
		m := wanted.FindStringSubmatch(text)
		if m == nil {
			return false
		}
		for _, number := range strings.Split(m[1], ",") {
			n, err := strconv.Atoi(number)
			if err != nil {
				s.t.Fatal(err)
			}
			found = append(found, n)
		}
		return true
	})
	return found
}

func (s *screen) send(message ...any) {
	s.t.Helper()
	if err := s.ws.WriteJSON(message); err != nil {
		s.t.Fatal(err)
	}
}

func (s *screen) typed(text string) { s.t.Helper(); s.send("stdin", text) }

func TestShellsPrintWhatIsTypedAndRemember(t *testing.T) {
	r := startTerminals(t, nil)
	name := r.newTerminal()
	if name != "1" {
		t.Errorf("the first terminal is %q", name)
	}
	s := r.look(name)
	s.typed("echo $((6*7)) $TERM $0 é; pwd; echo key=$KERNELGW_KERNEL_ID.\r")
	s.shows("42 xterm-256color /bin/bash é")
	s.shows("key=.")
	s.shows(r.agent.opts.Home)
	if s.first != `["setup",{}]` {
		t.Errorf("first came %s", s.first)
	}
	other := r.look(name)
	other.shows("42 xterm-256color")
	other.typed("echo other$((1+1))\r")
	s.shows("other2")
	s.leave()
	other.leave()
	again := r.look(name)
	again.shows("42 xterm-256color")
	again.shows("other2")
}

func TestATerminalEndsWithItsShell(t *testing.T) {
	r := startTerminals(t, nil)
	one, two := r.newTerminal(), r.newTerminal()
	if got := fmt.Sprint(r.names()); got != "[1 2]" {
		t.Fatalf("terminals %s", got)
	}
	s, other := r.look(one), r.look(two)
	s.typed("echo last words; exit\r")
	s.until("disconnected", func(text string, s *screen) bool {
		return strings.Contains(text, "last words") && s.gone && s.closed == websocket.CloseNormalClosure
	})
	if status, _ := r.call(http.MethodGet, "/v1/terminals/"+one); status != http.StatusNotFound {
		t.Errorf("an ended terminal answers %d", status)
	}
	r.status("one terminal", func(s agentapi.Status) bool { return s.Terminals == 1 })
	other.typed("echo still $((40+2))\r")
	other.shows("still 42")
	if _, name := r.post(`{}`); name != "1" {
		t.Errorf("the name that was free is not given again: %q", name)
	}
}

func TestDeletingATerminalKillsAllItsProcesses(t *testing.T) {
	r := startTerminals(t, nil)
	name, other := r.newTerminal(), r.newTerminal()
	bystander := r.look(other)
	bystander.typed("echo pid=$$.\r")
	s := r.look(name)
	// Those that ignore the hangup, that have a group of their own, and that
	// have a session of their own.
	s.typed("trap '' HUP TERM; (trap '' HUP; sleep 1000) & nohup sleep 1001 >/dev/null 2>&1 & (setsid sh -c 'echo own=$$.; exec sleep 1002'; true) &\r")
	pids := s.numbers(`own=(\d+)\.`)
	s.typed("echo jobs=$(jobs -p | tr '\\n' ,)end\r")
	pids = append(pids, s.numbers(`jobs=([\d,]+),end`)...)
	if len(pids) != 4 {
		t.Fatalf("jobs %v", pids)
	}
	if status, _ := r.call(http.MethodDelete, "/v1/terminals/"+name); status != http.StatusNoContent {
		t.Fatalf("DELETE: %d", status)
	}
	for _, pid := range pids {
		if b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat"); err == nil {
			if p, ok := parseStat(b); ok && !p.zombie {
				t.Errorf("process %d lives: %s", pid, b)
			}
		}
	}
	s.until("disconnected", func(_ string, s *screen) bool { return s.gone && s.closed == websocket.CloseNormalClosure })
	for _, method := range []string{http.MethodGet, http.MethodDelete} {
		if status, _ := r.call(method, "/v1/terminals/"+name); status != http.StatusNotFound {
			t.Errorf("%s: %d", method, status)
		}
	}
	bystander.typed("echo alive $((40+2))\r")
	bystander.shows("alive 42")
}

func TestSizeIsThatOfTheSmallestScreen(t *testing.T) {
	r := startTerminals(t, nil)
	name := r.newTerminal()
	s := r.look(name)
	s.send("set_size", 40, 100, 600, 800)
	s.typed("stty size\r")
	s.shows("40 100")
	small := r.look(name)
	small.send("set_size", 50, 33.9)
	// A shell may drop a signal that comes while it still handles the last: this
	// size is there before the next is set.
	s.typed("while [ \"$(stty size)\" != '40 33' ]; do sleep 0.05; done; echo narrow$((1+1))\r")
	s.shows("narrow2")
	// Programs are told.
	s.typed("sh -c 'trap \"echo size \\$(stty size); exit\" WINCH; echo ready$((1+1)); while :; do sleep 0.05; done'\r")
	s.shows("ready2")
	small.send("set_size", 20, 61)
	s.shows("size 20 61")
	small.leave()
	s.typed("while [ \"$(stty size)\" != '40 100' ]; do sleep 0.05; done; echo back$((1+1))\r")
	s.shows("back2")
	for _, hostile := range []string{
		`["set_size", 1e9, 1e9, 1, 1]`, `["set_size", 65537, 65537]`,
	} {
		if err := s.ws.WriteMessage(websocket.TextMessage, []byte(hostile)); err != nil {
			t.Fatal(err)
		}
		s.typed("while [ \"$(stty size)\" != '1000 2000' ]; do sleep 0.05; done; echo huge$((1+1))\r")
		s.shows("huge2")
	}
	for _, nonsense := range []string{
		`["set_size", 0, 0]`, `["set_size", -5, 10]`, `["set_size", "9", 9]`, `["set_size", null, null]`, `["set_size", 1e400, 5]`,
		`["set_size"]`, `["set_size", 7]`, `["set_size", [[[[]]]], {}]`, `[]`, `{}`, `null`, `"x"`, ``, `[`, `["stdin"]`, `["stdin", 5]`,
		`["stdin", null]`, `["exec", "id"]`, `[["stdin"], "x"]`, strings.Repeat("[", 100_000), "\xff\xfe", `["stdin", ""]`,
	} {
		if err := s.ws.WriteMessage(websocket.BinaryMessage, []byte(nonsense)); err != nil {
			t.Fatal(err)
		}
	}
	s.typed("echo after $(stty size)\r")
	s.shows("after 1000 2000")
}

func TestTooManyTerminalsAreRefused(t *testing.T) {
	r := startTerminals(t, func(o *Options) { o.Config.MaxTerminals = 2 })
	r.newTerminal()
	r.newTerminal()
	if status, _ := r.post("{}"); status != http.StatusTooManyRequests {
		t.Errorf("the third: %d", status)
	}
	if status, name := r.post(`{"name":"2"}`); status != http.StatusOK || name != "2" {
		t.Errorf("one that is there: %d %s", status, name)
	}
	if status, _ := r.call(http.MethodDelete, "/v1/terminals/1"); status != http.StatusNoContent {
		t.Fatal(status)
	}
	if status, name := r.post(`{"name":"work"}`); status != http.StatusOK || name != "work" {
		t.Errorf("after one has gone: %d %s", status, name)
	}
}

func TestHostileTerminalRequestsAreRefused(t *testing.T) {
	r := startTerminals(t, nil)
	for _, body := range []string{
		``, `[]`, `{"name":"../x"}`, `{"name":"a/b"}`, `{"name":"a b"}`, `{"name":"é"}`, `{"name":"` + strings.Repeat("x", 65) + `"}`,
		`{"name":5}`, `{"cwd":"a\u0000b"}`, `{"cwd":"` + strings.Repeat("x", maxTerminalRequest) + `"}`,
	} {
		if status, _ := r.post(body); status != http.StatusBadRequest {
			t.Errorf("%.60s: %d", body, status)
		}
	}
	for _, path := range []string{"/v1/terminals/..", "/v1/terminals/%2e%2e%2fstatus", "/v1/terminals/1", "/v1/terminals/1/socket", "/v1/terminals/%00"} {
		if status, _ := r.call(http.MethodGet, path); status != http.StatusNotFound && status != http.StatusMovedPermanently && status != http.StatusTemporaryRedirect {
			t.Errorf("%s: %d", path, status)
		}
	}
	if len(r.names()) > 0 {
		t.Errorf("terminals %v", r.names())
	}
}

func TestATerminalStartsWhereItIsAskedTo(t *testing.T) {
	r := startTerminals(t, nil)
	home := r.agent.opts.Home
	if err := os.MkdirAll(home+"/a b/c", 0o755); err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(home + "/a b")
	for cwd, want := range map[string]string{
		"a b/c": home + "/a b/c", "a b/not there": home + "/a b", "../../../../etc": home, "/usr": "/usr", "": home,
	} {
		_, name := r.post(fmt.Sprintf(`{"cwd":%q}`, cwd))
		s := r.look(name)
		s.typed("echo \"in $PWD.\"\r")
		s.shows("in " + want + ".")
	}
}

func TestAnAgentOfTerminalsHasNoKernelAndTheOtherWayRound(t *testing.T) {
	r := startTerminals(t, nil)
	for _, route := range kernelRoutes {
		if status, _ := r.call(route.method, route.path); status != http.StatusNotFound {
			t.Errorf("%s %s: %d", route.method, route.path, status)
		}
	}
	s := r.status("idle", func(s agentapi.Status) bool { return s.Ready })
	if s.ExecutionState != jupyter.Idle || s.Terminals != 0 || s.KernelID != "t1" || s.LastActivity.IsZero() {
		t.Errorf("status %+v", s)
	}
	k := start(t, nil)
	for _, path := range []string{"/v1/terminals", "/v1/terminals/1"} {
		if status, _ := k.call(http.MethodGet, path); status != http.StatusNotFound {
			t.Errorf("%s of a kernel's agent: %d", path, status)
		}
	}
}

func TestShuttingDownEndsTerminalsAndTellsThem(t *testing.T) {
	r := startTerminals(t, nil)
	name := r.newTerminal()
	s := r.look(name)
	s.typed("trap '' HUP; echo pid=$$.\r")
	pid := s.numbers(`pid=(\d+)\.`)[0]
	if status, _ := r.call(http.MethodPost, "/v1/kernel/shutdown"); status != http.StatusNoContent {
		t.Fatal(status)
	}
	<-r.ended
	<-s.ended
	if !s.gone || s.closed != websocket.CloseNormalClosure {
		t.Errorf("disconnect %v, code %d", s.gone, s.closed)
	}
	if err := unix.Kill(pid, 0); err != unix.ESRCH {
		t.Errorf("the shell lives: %v", err)
	}
}

// Everything that a flood could fill is bounded, and the agent and the other
// terminals go on.
func TestAFloodHarmsNobody(t *testing.T) {
	r := startTerminals(t, nil)
	name, other := r.newTerminal(), r.newTerminal()
	stuck := r.dialTerminal(name) // never reads
	defer stuck.Close()
	s := r.look(name)
	s.typed("yes 0123456789012345678901234567890123456789012345678901234567890123456789 | cat\r")
	s.until("flooding", func(text string, s *screen) bool { return len(text) > 8<<20 })
	var before runtime.MemStats
	runtime.ReadMemStats(&before)
	begin := time.Now()
	r.call(http.MethodGet, "/v1/status")
	bystander := r.look(other)
	bystander.typed("echo $((6*7))\r")
	bystander.shows("\r42")
	if took := time.Since(begin); took > 20*time.Second { // on a busy host, too
		t.Errorf("a bystander waited %v", took)
	}
	if before.HeapAlloc > 256<<20 {
		t.Errorf("%d MiB of heap", before.HeapAlloc>>20)
	}
	// Ctrl-C is heard, and the flood ends soon.
	s.typed("\x03")
	s.mu.Lock()
	s.text.Reset()
	s.mu.Unlock()
	s.typed("echo over$((1+1))\r")
	s.shows("over2")
	s.mu.Lock()
	if late := s.text.Len(); late > 2<<20 {
		t.Errorf("%d KiB came after Ctrl-C", late>>10)
	}
	s.mu.Unlock()
}

func TestASlowScreenIsDroppedWithAReasonAndTheOthersGoOn(t *testing.T) {
	r := startTerminals(t, nil)
	name := r.newTerminal()
	slow := r.dialTerminal(name)
	defer slow.Close()
	s := r.look(name)
	s.typed("yes 0123456789012345678901234567890123456789012345678901234567890123456789 | head -c 3000000; echo done$((1+1))\r")
	s.shows("done2")
	slow.SetPongHandler(nil)
	_ = slow.SetReadDeadline(time.Now().Add(patience))
	var err error
	got := 0
	for err == nil {
		var b []byte
		_, b, err = slow.ReadMessage()
		got += len(b)
	}
	// On a busy host it comes too late to be told, and meets the end of its connection.
	if websocket.IsUnexpectedCloseError(err, websocket.CloseTryAgainLater, websocket.CloseAbnormalClosure) || strings.HasSuffix(err.Error(), "1013") {
		t.Errorf("the slow one was told %v", err)
	}
	if got > 2<<20 {
		t.Errorf("%d KiB were kept for it", got>>10)
	}
	again := r.look(name)
	again.shows("done2")
}

// A laptop that went to sleep in front of a build does not stop the build.
func TestAProgramIsNotHeldUpByTheOnlyScreenThatDoesNotRead(t *testing.T) {
	r := startTerminals(t, nil)
	name := r.newTerminal()
	asleep := r.dialTerminal(name)
	defer asleep.Close()
	if err := asleep.WriteJSON([]string{"stdin", "yes 0123456789012345678901234567890123456789012345678901234567890123456789 | head -c 3000000; touch built\r"}); err != nil {
		t.Fatal(err)
	}
	built := filepath.Join(r.agent.opts.Home, "built")
	defer os.Remove(built)
	for begin := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(built); err == nil {
			break
		}
		if time.Since(begin) > patience {
			t.Fatal("the program waits for ever")
		}
	}
}

func TestScreensAreLimitedAndMayLie(t *testing.T) {
	r := startTerminals(t, nil)
	name := r.newTerminal()
	first := r.look(name)
	for _, lie := range []string{"", "x", "-1", "99999999999999999999999", "9223372036854775807", strings.Repeat("9", 125)} {
		if err := first.ws.WriteControl(websocket.PongMessage, []byte(lie), time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
	}
	for range 15 {
		r.look(name).until("set up", func(_ string, s *screen) bool { return s.first != "" })
	}
	refused := r.look(name)
	<-refused.ended
	if refused.closed != websocket.CloseTryAgainLater {
		t.Errorf("one too many: code %d, %v", refused.closed, refused.err)
	}
	if err := refused.ws.Close(); err != nil {
		t.Log(err)
	}
	first.typed("echo works$((1+1))\r")
	first.shows("works2")
	// A message that is too long ends only its own socket.
	long := r.look(name)
	first.until("alone", func(string, *screen) bool { return true })
	_ = long.ws.WriteMessage(websocket.TextMessage, []byte(`["stdin","`+strings.Repeat("x", 2<<20)+`"]`))
	<-long.ended
	first.typed("echo still$((1+1))\r")
	first.shows("still2")
}

func TestReplayIsBoundedAndBeginsWithALine(t *testing.T) {
	r := startTerminals(t, nil)
	name := r.newTerminal()
	s := r.look(name)
	s.typed("stty -echo; PS1=; for i in $(seq 20000); do printf 'é%05d\\n' $i; done; printf '\\033[6n'; echo done$((1+1))\r")
	s.shows("done2")
	again := r.look(name)
	again.shows("done2")
	again.mu.Lock()
	text := again.text.String()
	again.mu.Unlock()
	first, _, _ := strings.Cut(text, "\r\n")
	if len(text) > 64<<10 || len(first) != len("é00000") || !strings.HasPrefix(first, "é") {
		t.Errorf("%d bytes that begin with %q", len(text), first)
	}
	if strings.Contains(text, "\x1b[6n") {
		t.Error("the client is asked again where its cursor is")
	}
}

func TestIdleTerminalsEnd(t *testing.T) {
	r := startTerminals(t, func(o *Options) { o.Config.TerminalIdle = time.Hour })
	quiet, watched := r.newTerminal(), r.newTerminal()
	s := r.look(watched)
	s.shows(prompt)
	r.agent.terminals.EndIdle(time.Now().Add(59 * time.Minute))
	if n := len(r.names()); n != 2 {
		t.Fatalf("%d terminals before their time", n)
	}
	r.agent.terminals.EndIdle(time.Now().Add(61 * time.Minute))
	if got := r.names(); len(got) != 1 || got[0] != watched {
		t.Errorf("terminals %v; %s is idle and %s is watched", got, quiet, watched)
	}
}

func TestTheTerminalThatTakesTooMuchIsEndedWithAReason(t *testing.T) {
	r := startTerminals(t, func(o *Options) {
		o.Config.MemoryBytes = 256 << 20
		o.OwnsDescendants = true
	})
	greedy, modest := r.newTerminal(), r.newTerminal()
	s, other := r.look(greedy), r.look(modest)
	other.shows(prompt)
	s.typed("head -c 600000000 /dev/zero | tail -c 500000000 | wc -c\r")
	s.until("killed", func(text string, s *screen) bool {
		return strings.Contains(text, "[killed: memory limit 256 MiB]") && s.gone
	})
	other.typed("echo alive$((1+1))\r")
	other.shows("alive2")
}

func TestOpenTerminalsAreToldByTheWatch(t *testing.T) {
	r := startTerminals(t, nil)
	req, _ := http.NewRequest(http.MethodGet, "http://agent/v1/watch", nil)
	req.Header.Set("Authorization", "Bearer "+testToken)
	resp, err := r.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := json.NewDecoder(resp.Body)
	next := func(want int) {
		t.Helper()
		for {
			var s agentapi.Status
			if err := lines.Decode(&s); err != nil {
				t.Fatal(err)
			}
			if s.Terminals == want {
				return
			}
		}
	}
	next(0)
	name := r.newTerminal()
	next(1)
	r.call(http.MethodDelete, "/v1/terminals/"+name)
	next(0)
}

// The agent's own descriptors, above all those of other terminals, are not a
// shell's.
func TestAShellInheritsNoDescriptors(t *testing.T) {
	r := startTerminals(t, nil)
	r.newTerminal()
	s := r.look(r.newTerminal())
	s.typed("ls -l /proc/$$/fd | grep -c ptmx; ls -l /proc/$$/fd | grep -c pts\r")
	s.shows("\r0\r\n4\r\n") // with bash's own copy
}
