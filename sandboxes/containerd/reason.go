package containerd

import (
	"errors"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxSentence bounds what is passed on of an error that a runtime wrote.
const maxSentence = 300

// trimmed is an error of containerd or a shim whose text is cut to a sentence:
// runtime-rs sends all its causes and a backtrace. What it is stays.
type trimmed struct {
	text string
	err  error
}

func (t *trimmed) Error() string { return t.text }
func (t *trimmed) Unwrap() error { return t.err }

// trim makes a long error readable.
func trim(err error) error {
	if err == nil {
		return nil
	}
	text := sentence(err.Error())
	if text == err.Error() {
		return err
	}
	return &trimmed{text: text, err: err}
}

// sentence returns the first line of a text and, where it goes on with a list of
// causes as anyhow writes them, the last of these, which is the first that
// happened. Line breaks may be written out as a backslash and an n.
func sentence(text string) string {
	text = strings.ReplaceAll(text, `\n`, "\n")
	text = strings.ReplaceAll(text, `Others("`, "") // the name of their catch-all
	if before, _, ok := strings.Cut(text, "Stack backtrace:"); ok {
		text = before
	}
	head, causes, hasCauses := strings.Cut(text, "Caused by:")
	said := firstLine(head)
	if hasCauses {
		last := ""
		for line := range strings.Lines(causes) {
			if line = cause(line); line != "" {
				last = line
			}
		}
		if last != "" && !strings.Contains(said, last) {
			said = strings.TrimRight(said, `":( `) + ": " + last
		}
	}
	return cut(said)
}

func firstLine(text string) string {
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(printable(line)); line != "" {
			return line
		}
	}
	return ""
}

// cause strips the number from a line such as "    0: cannot start".
func cause(line string) string {
	line = strings.TrimSpace(printable(line))
	if number, rest, ok := strings.Cut(line, ":"); ok && number != "" && strings.Trim(number, "0123456789") == "" {
		line = strings.TrimSpace(rest)
	}
	return strings.Trim(line, `"()`)
}

func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, text)
}

func cut(text string) string {
	if len(text) <= maxSentence {
		return text
	}
	n := maxSentence
	for !utf8.RuneStart(text[n]) {
		n--
	}
	return text[:n] + "..."
}

// isAny reports whether err is one of the targets.
func isAny(err error, targets ...error) bool {
	for _, target := range targets {
		if errors.Is(err, target) {
			return true
		}
	}
	return false
}
