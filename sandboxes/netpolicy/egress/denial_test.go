package egress

import (
	"fmt"
	"strings"
	"testing"
)

func TestDenialsAreCountedAllAndSaidAFew(t *testing.T) {
	w := newWorld(t).serve()
	s, other := w.admit(1, only()), w.admit(2, only())
	const tries = 200
	for i := range tries {
		if status, _ := s.get(fmt.Sprintf("http://h%d.example.org/", i)); status != 403 {
			t.Fatal(status)
		}
	}
	if u := w.proxy.Usage(s.addr); u.Denials != tries {
		t.Errorf("usage %+v", u)
	}
	w.mu.Lock()
	said := len(w.denials)
	w.mu.Unlock()
	if said < 10 || said > 100 {
		t.Errorf("%d denials were said", said)
	}
	// One client's flood does not hide another's denial.
	other.get("http://quiet.example.org/")
	w.mu.Lock()
	last := w.denials[len(w.denials)-1]
	w.mu.Unlock()
	if last.Client != "sandbox-2" || last.Host != "quiet.example.org" {
		t.Errorf("%+v", last)
	}
	c := w.proxy.lookup(s.addr)
	if n := c.unsaid.Load(); n != uint64(tries-said) {
		t.Errorf("%d unsaid of %d, %d said", n, tries, said)
	}
}

func TestDenialsArePrintable(t *testing.T) {
	w := newWorld(t).serve()
	s := w.admit(1, only())
	s.say("CONNECT \x1b]0;owned\x07\xc3\xbc.example:443 HTTP/1.1\r\nHost: x\r\n\r\n")
	s.say("CONNECT ü\u202e.example:443 HTTP/1.1\r\nHost: x\r\n\r\n")
	s.say("CONNECT " + strings.Repeat("long", 5000) + ":443 HTTP/1.1\r\nHost: x\r\n\r\n")
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.denials) == 0 {
		t.Error("none was said")
	}
	for _, d := range w.denials {
		for _, text := range []string{d.Host, d.Reason, d.Client} {
			if strings.Trim(text, printableASCII) != "" || len(text) > 1500 {
				t.Errorf("%q", text)
			}
		}
	}
}
