package kernelgw_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	"kernelgw/kernelgw/registry"
	"kernelgw/kernelgw/secrets"
)

const secretsPath = "/v1/workspaces/math/secrets"

// secretAnswer is a secret as the API shows it.
type secretAnswer struct {
	Name, Placeholder, By string
	Hosts                 []string
	Created, Changed      string
}

func TestASecretIsSetListedUsedAndDeleted(t *testing.T) {
	g := start(t)
	made := g.want(g.ada("PUT", secretsPath+"/OPENAI_API_KEY", `{"value": "sk-first", "hosts": ["API.example.org", "*.example.net", "api.example.org."]}`), http.StatusCreated)
	var one secretAnswer
	made.json(t, &one)
	if one.Name != "OPENAI_API_KEY" || !slices.Equal(one.Hosts, []string{"api.example.org", "*.example.net"}) ||
		!regexp.MustCompile(`^kgw-secret-[0-9a-f]{32}$`).MatchString(one.Placeholder) || one.By == "" {
		t.Fatalf("made %s", made.body)
	}
	var again secretAnswer
	g.want(g.ada("PUT", secretsPath+"/OPENAI_API_KEY", `{"value": "sk-second", "hosts": ["api.example.org"]}`), http.StatusOK).json(t, &again)
	if again.Placeholder != one.Placeholder || again.Created != one.Created || len(again.Hosts) != 1 {
		t.Errorf("changed to %+v: kernels that run have the placeholder %s", again, one.Placeholder)
	}
	opened, err := g.secrets.Open(t.Context(), "math")
	if err != nil || len(opened) != 1 || opened[0].Value.Reveal() != "sk-second" {
		t.Fatalf("Open = %v, %v", opened, err)
	}
	var list []secretAnswer
	g.want(g.ada("GET", secretsPath, ""), http.StatusOK).json(t, &list)
	if len(list) != 1 || list[0].Name != "OPENAI_API_KEY" {
		t.Errorf("list is %+v", list)
	}
	g.want(g.ada("DELETE", secretsPath+"/OPENAI_API_KEY", ""), http.StatusNoContent)
	g.want(g.ada("DELETE", secretsPath+"/OPENAI_API_KEY", ""), http.StatusNotFound)
	if opened, err := g.secrets.Open(t.Context(), "math"); err != nil || len(opened) != 0 {
		t.Errorf("after DELETE Open = %v, %v", opened, err)
	}
	if r := g.want(g.ada("GET", secretsPath, ""), http.StatusOK); strings.TrimSpace(r.body) != "[]" {
		t.Errorf("after DELETE list is %s", r.body)
	}
	var anew secretAnswer
	g.want(g.ada("PUT", secretsPath+"/OPENAI_API_KEY", `{"value": "sk-third", "hosts": ["api.example.org"]}`), http.StatusCreated).json(t, &anew)
	if anew.Placeholder == one.Placeholder {
		t.Error("a new secret has the placeholder of a deleted one")
	}
	for _, line := range []string{
		`msg="secret set" audit=secret workspace=math name=OPENAI_API_KEY hosts="api.example.org *.example.net" user=`,
		`msg="secret deleted" audit=secret workspace=math name=OPENAI_API_KEY user=`,
	} {
		if !strings.Contains(g.log.String(), line) {
			t.Errorf("the log does not have %q", line)
		}
	}
}

// Every answer, refusal and log line is provoked with a value that must be in
// none, wherever in the request it was put.
func TestTheValueOfASecretIsInNoAnswerLogOrRecord(t *testing.T) {
	g := start(t)
	const value = "V4LUEV4LUEV4LUEV4LUE"
	var said strings.Builder
	send := func(status int, method, path, body string, headers ...string) {
		t.Helper()
		r := g.ada(method, path, body, headers...)
		fmt.Fprintln(&said, r.body, r.Header)
		if r.StatusCode != status {
			t.Errorf("%s %s %s: %d %s, want %d", method, path, body, r.StatusCode, r.body, status)
		}
	}
	const hosts = `"hosts": ["api.example.org"]`
	at := secretsPath + "/API_KEY"
	send(201, "PUT", at, `{"value": "`+value+`", `+hosts+`}`)
	send(200, "PUT", at, `{"value": "`+value+`", `+hosts+`}`)
	send(200, "GET", secretsPath, "")
	send(405, "GET", at, "")
	for _, body := range []string{
		`{"value": {"x": "` + value + `"}, ` + hosts + `}`, `{"value": ["` + value + `"]}`, `{"` + value + `": "x", ` + hosts + `}`, `"` + value + `"`,
		value, `{"value": "` + value, `{"value": "` + value + `\n", ` + hosts + `}`, `{"value": "` + value + `\u0000", ` + hosts + `}`,
		`{"value": "` + value + "\xff" + `", ` + hosts + `}`, `{"value": "` + value + `"}`, `{"value": "` + value + `", "hosts": []}`,
		`{"value": "` + value + `", "hosts": "x"}`, `{"Value": "` + value + `", ` + hosts + `}`, `{"value": "", ` + hosts + `}`, ``, `null`, `[]`,
		`{"value": "` + value + `", "hosts": ["*.com"]}`, `{"value": "` + value + `", "hosts": ["*.github.io"]}`, `{"value": "` + value + `", "hosts": ["127.0.0.1"]}`,
		`{"value": 5, ` + hosts + `}`, `{"value": "` + value + `", "hosts": [` + strings.Repeat(`"a.example.org",`, 20) + `"b.example.org"]}`,
	} {
		send(400, "PUT", at, body)
	}
	for _, name := range []string{
		"PATH", "path", "LD_PRELOAD", "PYTHONSTARTUP", "HTTPS_PROXY", "http_proxy", "BASH_ENV", "KERNEL_ID", "1KEY", "A-B", "A=B", "%C3%84", "A%00B", "A%0AB", "a%2fb",
		strings.Repeat("A", 101), "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "PIP_INDEX_URL", "Node_Options",
	} {
		send(400, "PUT", secretsPath+"/"+name, `{"value": "`+value+`", `+hosts+`}`)
	}
	send(413, "PUT", at, `{"value": "`+strings.Repeat(value, 64<<10/len(value))+`", `+hosts+`}`)
	send(404, "PUT", "/v1/workspaces/bob/secrets/API_KEY", `{"value": "`+value+`", `+hosts+`}`)
	base := g.capability("math")
	for _, method := range []string{"PUT", "DELETE", "GET"} {
		for _, path := range []string{at, secretsPath} {
			if r := g.do(method, base+path, `{"value": "`+value+`", `+hosts+`}`); r.StatusCode != http.StatusNotFound {
				t.Errorf("%s %s with a capability: %d %s", method, path, r.StatusCode, r.body)
			}
		}
	}
	records, err := g.store.List(t.Context(), registry.Secrets)
	if err != nil || len(records) != 1 {
		t.Fatalf("records: %v, %v", records, err)
	}
	for where, text := range map[string]string{"answers": said.String(), "log": g.log.String(), "metrics": g.scrape(), "registry": string(records[0].Value)} {
		if i := strings.Index(text, value); i >= 0 {
			t.Errorf("the value is in the %s: …%s…", where, text[max(0, i-200):min(len(text), i+60)])
		}
	}
	if opened, err := g.secrets.Open(t.Context(), "math"); err != nil || len(opened) != 1 || opened[0].Value.Reveal() != value {
		t.Errorf("after all that Open = %v, %v", opened, err)
	}
}

func TestSecretsOfAnotherUsersWorkspaceDoNotExist(t *testing.T) {
	g := start(t)
	g.want(g.ada("PUT", secretsPath+"/API_KEY", `{"value": "v", "hosts": ["api.example.org"]}`), http.StatusCreated)
	for _, r := range [][2]string{{"GET", secretsPath}, {"PUT", secretsPath + "/API_KEY"}, {"DELETE", secretsPath + "/API_KEY"}} {
		g.want(g.do(r[0], r[1], `{"value": "mine", "hosts": ["evil.example.org"]}`, "Authorization: token "+bobToken), http.StatusNotFound)
	}
	if opened, err := g.secrets.Open(t.Context(), "math"); err != nil || len(opened) != 1 || opened[0].Value.Reveal() != "v" {
		t.Errorf("after bob's attempts Open = %v, %v", opened, err)
	}
}

// A page of another site sends the user's cookie along, and nothing else.
func TestASecretIsNotSetByAnotherSitesForm(t *testing.T) {
	g := start(t)
	cookies, xsrf := g.login()
	body := `{"value": "v", "hosts": ["evil.example.org"]}`
	g.want(g.do("PUT", secretsPath+"/API_KEY", body, "Cookie: "+cookies), http.StatusForbidden)
	g.want(g.do("PUT", secretsPath+"/API_KEY", body, "Cookie: "+cookies, "X-XSRFToken: "+xsrf, "Origin: https://evil.example.org"), http.StatusNotFound)
	g.want(g.do("PUT", secretsPath+"/API_KEY", body, "Cookie: "+cookies, "X-XSRFToken: "+xsrf), http.StatusCreated)
}

func TestTheNumberOfSecretsIsBounded(t *testing.T) {
	g := start(t)
	for i := range 64 {
		if _, _, err := g.secrets.Set(t.Context(), "math", fmt.Sprintf("KEY_%d", i), secrets.NewValue("v"), []string{"api.example.org"}, "test"); err != nil {
			t.Fatal(err)
		}
	}
	r := g.want(g.ada("PUT", secretsPath+"/ONE_MORE", `{"value": "v", "hosts": ["api.example.org"]}`), http.StatusConflict)
	if !strings.Contains(r.body, "at most 64") {
		t.Errorf("answer %s", r.body)
	}
	g.want(g.ada("PUT", secretsPath+"/KEY_1", `{"value": "w", "hosts": ["api.example.org"]}`), http.StatusOK)
}

func TestASecretAsAnAnswerHasNoFieldOfAValue(t *testing.T) {
	text, err := json.Marshal(secrets.Secret{Name: "N", Value: secrets.NewValue("hunter2")})
	if err != nil || strings.Contains(string(text), "hunter2") {
		t.Errorf("%s, %v", text, err)
	}
}
