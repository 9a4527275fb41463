package telemetry_test

import (
	"bytes"
	"errors"
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"

	"kernelgw/kernelgw/telemetry"
)

func TestLogsHoldNoCredentials(t *testing.T) {
	const secret = "s3cr3ts3cr3ts3cr3t"
	for _, format := range []string{"text", "json"} {
		for name, text := range map[string]string{
			"query":         "GET /api/kernels?x=1&token=" + secret + "&y=2",
			"bare query":    "token=" + secret,
			"referer":       `Referer: "http://h/lab?token=` + secret + `"`,
			"authorization": "Authorization: token " + secret,
			"bearer":        "got bearer " + secret,
			"cookie":        "Cookie: session=" + secret + "; _xsrf=" + secret,
			"capability":    "/t/" + strings.Repeat("0123456789abcdef", 2) + "/api",
			"upper case":    "?TOKEN=" + secret,
			"password form": "password=" + secret,
		} {
			t.Run(format+" "+name, func(t *testing.T) {
				var out bytes.Buffer
				log, err := telemetry.NewLogger(&out, slog.LevelInfo, format)
				if err != nil {
					t.Fatal(err)
				}
				log.Info("request "+"failed", "text", text, "error", errors.New(text), slog.Group("g", "inner", text))
				if strings.Contains(out.String(), secret) || strings.Contains(out.String(), "0123456789abcdef") {
					t.Errorf("the log holds a credential: %s", out.String())
				}
				if !strings.Contains(out.String(), "[redacted]") {
					t.Errorf("nothing was redacted: %s", out.String())
				}
			})
		}
	}
}

func TestRedactKeepsWhatIsNoCredential(t *testing.T) {
	for _, s := range []string{
		"cannot start kernel 5b6f: no such kernelspec", "/api/kernels/5b6f0f0e-aaaa/channels", "token expired", "bearer of news",
	} {
		if got := telemetry.Redact(s); got != s {
			t.Errorf("Redact(%q) = %q", s, got)
		}
	}
}

func TestMetricsAreServed(t *testing.T) {
	m := telemetry.NewMetrics()
	m.Sockets.Set(3)
	m.Replayed.Add(2)
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	for _, want := range []string{"kernelgw_sockets 3", "kernelgw_replayed_messages_total 2", "go_goroutines"} {
		if !strings.Contains(w.Body.String(), want) {
			t.Errorf("no %q in the metrics", want)
		}
	}
}

func TestNewLoggerNamesAnUnknownFormat(t *testing.T) {
	if _, err := telemetry.NewLogger(&bytes.Buffer{}, slog.LevelInfo, "xml"); err == nil || !strings.Contains(err.Error(), "xml") {
		t.Errorf("err = %v", err)
	}
}
