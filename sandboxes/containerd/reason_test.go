package containerd

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/containerd/errdefs"
)

func TestBacktraceBecomesASentence(t *testing.T) {
	backtrace := "failed to create shim task: Others(\"failed to handle message create container\n\nCaused by:\n    0: create sandbox\n    1: start vm\n" +
		"    2: open /dev/kvm: No such file or directory (os error 2)\n\nStack backtrace:\n" + strings.Repeat("   0: anyhow::error::<impl>::msg\n             at src/x.rs:1\n", 100) + "\"): unknown"
	want := "failed to create shim task: failed to handle message create container: open /dev/kvm: No such file or directory (os error 2"
	for _, text := range []string{backtrace, strings.ReplaceAll(backtrace, "\n", `\n`)} {
		err := trim(fmt.Errorf("%s: %w", text, errdefs.ErrUnknown))
		if err.Error() != want {
			t.Errorf("an error of runtime-rs reads\n%s\nwant\n%s", err, want)
		}
		if !errors.Is(err, errdefs.ErrUnknown) {
			t.Error("it is no longer what it was")
		}
	}
	short := errors.New("no such thing")
	if trim(short) != short || trim(nil) != nil { //nolint:errorlint // the same one
		t.Error("an error that is a sentence is changed")
	}
}

func FuzzSentence(f *testing.F) {
	f.Add("a\n\nCaused by:\n    0: b\n    1: c\n\nStack backtrace:\n  x")
	f.Add(`Others("x\nCaused by:`)
	f.Add(strings.Repeat("ä", 400))
	f.Fuzz(func(t *testing.T, text string) {
		got := sentence(text)
		if len(got) > maxSentence+3 || strings.ContainsAny(got, "\n\r\x00\x1b") {
			t.Errorf("%q becomes %q", text, got)
		}
		if utf8.ValidString(text) && !utf8.ValidString(got) {
			t.Errorf("%q is cut inside a rune: %q", text, got)
		}
	})
}
