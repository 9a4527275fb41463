package terminal

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestParse(t *testing.T) {
	for message, want := range map[string]request{
		`["stdin","ls\r"]`:                       {stdin: "ls\r"},
		`["stdin","a","b"]`:                      {stdin: "a"},
		` [ "stdin" , "\u00e9\ud800" ] trailing`: {stdin: "é\ufffd"},
		`["stdin",""]`:                           {},
		`["stdin",5]`:                            {},
		`["stdin"]`:                              {},
		`["stdout","x"]`:                         {},
		`["set_size",24,80,480,640]`:             {size: size{24, 80}},
		`["set_size",24.9,80.2]`:                 {size: size{24, 80}},
		`["set_size",1,1]`:                       {size: size{1, 2}},
		`["set_size",1e300,99999]`:               {size: size{1000, 2000}},
		`["set_size",0,80]`:                      {},
		`["set_size",24,0.5]`:                    {},
		`["set_size",-1,-1]`:                     {},
		`["set_size",24]`:                        {},
		`["set_size","24","80"]`:                 {},
		`["set_size",null,80]`:                   {},
		`["set_size",1e999,80]`:                  {},
		`[[],"x"]`:                               {},
		`[]`:                                     {},
		`{"stdin":"x"}`:                          {},
		``:                                       {},
		`["stdin","unfinished`:                   {},
		strings.Repeat("[", 1<<20):               {},
	} {
		if got := parse([]byte(message)); got != want {
			t.Errorf("%.40s: %+v, want %+v", message, got, want)
		}
	}
}

// What a client sends, whatever it is, types or resizes within bounds.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		`["stdin","ls\r"]`, `["set_size",24,80,480,640]`, `["set_size",1e308,-0]`, `["stdin","\ud83d\ude00\u0000"]`, `[["stdin"]]`, "\xff", `["set_size",{},[]]`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, message []byte) {
		r := parse(message)
		if r.size != (size{}) && (r.size.rows < minRows || r.size.rows > maxRows || r.size.cols < minCols || r.size.cols > maxCols) {
			t.Errorf("%q resizes to %+v", message, r.size)
		}
		if r.size != (size{}) && r.stdin != "" {
			t.Errorf("%q asks for two things", message)
		}
		if len(r.stdin) > 3*len(message) || !utf8.ValidString(r.stdin) {
			t.Errorf("%q types %q", message, r.stdin)
		}
	})
}

// Output, cut anywhere, arrives as the same valid text, and each message of it
// is what a browser can decode.
func FuzzOutput(f *testing.F) {
	f.Add([]byte("h\xc3\xa9llo \xf0\x9f\x98\x80\x1b[31m"), uint8(2))
	f.Add([]byte("\xf0\x9f\xff\xc3"), uint8(1))
	f.Add([]byte("</script>\u2028\x00"), uint8(3))
	f.Fuzz(func(t *testing.T, printed []byte, piece uint8) {
		var d decoder
		var text strings.Builder
		for rest := printed; len(rest) > 0; {
			n := min(len(rest), int(piece)+1)
			part := d.decode(rest[:n])
			rest = rest[n:]
			var m []string
			if err := json.Unmarshal(stdout(part), &m); err != nil || len(m) != 2 || m[0] != "stdout" || m[1] != part {
				t.Fatalf("%q became %q, %v", part, m, err)
			}
			text.WriteString(part)
		}
		if !utf8.ValidString(text.String()) {
			t.Errorf("%q is not UTF-8", text.String())
		}
		if utf8.Valid(printed) && text.String() != string(printed) {
			t.Errorf("%q became %q", printed, text.String())
		}
	})
}

func TestReplayIsTheEndInWholeCharactersAndLines(t *testing.T) {
	var r recent
	for range 40_000 {
		r.add("línea\r\n")
	}
	got := r.replay()
	if len(got) > recentBytes || len(got) < recentBytes-maxLine || !strings.HasPrefix(got, "línea\r\n") || !strings.HasSuffix(got, "línea\r\n") {
		t.Errorf("%d bytes: %q ... %q", len(got), got[:10], got[len(got)-10:])
	}
	var long recent
	long.add(strings.Repeat("é", recentBytes)) // one line
	if got := long.replay(); !utf8.ValidString(got) || len(got) < recentBytes-utf8.UTFMax {
		t.Errorf("%d bytes, valid %v", len(got), utf8.ValidString(got))
	}
	if cap(r.b) > 4*recentBytes {
		t.Errorf("%d bytes are held", cap(r.b))
	}
}

// A browser that is shown these again would answer them again, and the answers
// would be typed into the shell.
func TestReplayAsksNothing(t *testing.T) {
	for question, kept := range map[string]string{
		"\x1b[c": "", "\x1b[>c": "", "\x1b[0c": "", "\x1b[=c": "", "\x1b[6n": "", "\x1b[?6n": "", "\x1b[5n": "", "\x1bZ": "", "\x05": "",
		"\x1b[?2026$p": "", "\x1b[>0q": "", "\x1b[18t": "", "\x1b]11;?\x07": "", "\x1b]4;1;?\x1b\\": "", "\x1bP+q544e\x1b\\": "", "\x1bP$qm\x1b\\": "",
		"\x1b[31mred\x1b[0m": "\x1b[31mred\x1b[0m", "\x1b]0;title?\x07": "\x1b]0;title?\x07", "\x1b[2J\x1b[H": "\x1b[2J\x1b[H",
		"\x1b[?1049h": "\x1b[?1049h", "\x1b[22;0;0t": "\x1b[22;0;0t", "\x1b[>4;2m": "\x1b[>4;2m", "why?\r\n": "why?\r\n",
	} {
		var r recent
		r.add("before" + question + "after")
		if got := r.replay(); got != "before"+kept+"after" {
			t.Errorf("%q is replayed as %q", question, got)
		}
	}
}
