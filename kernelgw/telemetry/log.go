package telemetry

import (
	"fmt"
	"io"
	"log/slog"
	"regexp"
)

// NewLogger returns a logger that writes records of the level and above to w,
// as "text" or "json". Every string and error in a record passes Redact, so
// that a token in a URL or a header that ended up in an error's text does not
// end up in the log.
func NewLogger(w io.Writer, level slog.Level, format string) (*slog.Logger, error) {
	options := &slog.HandlerOptions{Level: level, ReplaceAttr: redactAttr}
	switch format {
	case "text":
		return slog.New(slog.NewTextHandler(w, options)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, options)), nil
	}
	return nil, fmt.Errorf("unknown log format %q: use text or json", format)
}

func redactAttr(_ []string, a slog.Attr) slog.Attr {
	switch v := a.Value.Any().(type) {
	case string:
		return slog.String(a.Key, Redact(v))
	case error:
		return slog.String(a.Key, Redact(v.Error()))
	}
	return a
}

// secrets matches what may carry a credential in a URL, a header or a path: a
// query parameter, an Authorization or Cookie value, a capability path.
var secrets = regexp.MustCompile(
	`(?i)((?:[?&]|\b)(?:token|_xsrf|password)=)[^&\s"']+` +
		`|(\b(?:token|bearer)\s+)[0-9a-z._~+/=-]{16,}` +
		`|((?:authorization|cookie|set-cookie|x-xsrftoken):\s*)[^\r\n"']+` +
		`|(/t/)[0-9a-f]{16,}`)

// Redact returns s with everything that looks like a credential replaced.
func Redact(s string) string {
	return secrets.ReplaceAllString(s, "${1}${2}${3}${4}[redacted]")
}
