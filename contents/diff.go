package contents

import (
	"bytes"
	"context"
	"net/http"
	"strings"
	"unicode/utf8"

	"github.com/pmezard/go-difflib/difflib"
)

const (
	// diffBytes and diffLines bound what is compared line by line: the time that
	// takes grows faster than the text.
	diffBytes = 2 << 20
	diffLines = 10_000
)

// diffModel is what differs between two versions, as the native API shows it.
type diffModel struct {
	From    versionModel `json:"from"`
	To      versionModel `json:"to"`
	Kind    string       `json:"kind"` // notebook, text or binary
	Same    bool         `json:"same"` // byte by byte
	TooLong bool         `json:"too_long"`
	Unified string       `json:"unified"` // of text
	// Of a notebook: its cells, and whether its metadata differ.
	Cells           []cellDiff `json:"cells"`
	MetadataChanged bool       `json:"metadata_changed"`
}

// Diff answers GET v1/workspaces/NAME/files/PATH/diff?from=ID&to=ID. Without to it
// is the latest version, without from the one before to.
func (h *Handlers) Diff(w http.ResponseWriter, r *http.Request, at At) error {
	path, err := visible(at.Path)
	if err != nil {
		return err
	}
	query := r.URL.Query()
	limit := 0
	if query.Get("from") == "" && query.Get("to") == "" {
		limit = 2
	}
	list, err := h.o.Store.Versions(r.Context(), at.Workspace, path, "", limit)
	if err != nil {
		return failed(err, path)
	}
	from, to, err := compared(list, query.Get("from"), query.Get("to"))
	if err != nil {
		return failed(err, path)
	}
	answer := diffModel{From: versionOf(from), To: versionOf(to), Kind: "binary", Cells: []cellDiff{}}
	if from.Size > diffBytes || to.Size > diffBytes {
		answer.TooLong = true
		answer.Same = from.SHA256 != "" && from.SHA256 == to.SHA256
		return answerJSON(w, http.StatusOK, answer)
	}
	a, err := h.whole(r.Context(), at, path, from)
	if err != nil {
		return failed(err, path)
	}
	b, err := h.whole(r.Context(), at, path, to)
	if err != nil {
		return failed(err, path)
	}
	answer.Same = bytes.Equal(a, b)
	if typeOf(path) == typeNotebook && answer.cells(a, b) {
		return answerJSON(w, http.StatusOK, answer)
	}
	if isText(a) && isText(b) {
		answer.Kind = "text"
		answer.Unified, answer.TooLong = unified(string(a), string(b), from.Entry.Version, to.Entry.Version)
	}
	return answerJSON(w, http.StatusOK, answer)
}

// compared finds the two versions in the list, which is latest first.
func compared(list []Version, from, to string) (a, b Version, err error) {
	at := 0
	if to != "" {
		if at = indexOf(list, to); at < 0 {
			return a, b, fail(http.StatusNotFound, "No version %s", to)
		}
	}
	b = list[at]
	if from == "" {
		if at+1 >= len(list) {
			return a, b, fail(http.StatusNotFound, "There is no version before %s", b.Entry.Version)
		}
		return list[at+1], b, nil
	}
	if at = indexOf(list, from); at < 0 {
		return a, b, fail(http.StatusNotFound, "No version %s", from)
	}
	return list[at], b, nil
}

func indexOf(list []Version, id string) int {
	for i, v := range list {
		if v.Entry.Version == id {
			return i
		}
	}
	return -1
}

// whole reads a version that is known to be small.
func (h *Handlers) whole(ctx context.Context, at At, path string, v Version) ([]byte, error) {
	body, e, err := h.o.Store.Open(ctx, at.Workspace, path, v.Entry.Version, 0, diffBytes)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	var content bytes.Buffer
	err = spoolBody(&content, body, e)
	return content.Bytes(), err
}

func isText(b []byte) bool { return utf8.Valid(b) && bytes.IndexByte(b, 0) < 0 }

// unified compares two texts line by line, with three lines around each change.
func unified(a, b, from, to string) (text string, tooLong bool) {
	if strings.Count(a, "\n") > diffLines || strings.Count(b, "\n") > diffLines {
		return "", true
	}
	text, err := difflib.GetUnifiedDiffString(difflib.UnifiedDiff{
		A: linesOf(a), B: linesOf(b), FromFile: from, ToFile: to, Context: 3,
	})
	return text, err != nil
}

// linesOf returns the lines of a text, each with its end; the last one gets one.
func linesOf(text string) []string {
	if text == "" {
		return nil
	}
	all := strings.SplitAfter(text, "\n")
	if last := len(all) - 1; all[last] == "" {
		all = all[:last]
	} else {
		all[last] += "\n\\ No newline at end of file\n"
	}
	return all
}
