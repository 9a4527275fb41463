package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/net/html"
)

// clientConfigs runs the command for JSON.
func clientConfigs(t *testing.T, args ...string) map[string]clientConfig {
	t.Helper()
	out, err := runCommand(t, nil, append([]string{"client-config", "--format", "json"}, args...)...)
	if err != nil {
		t.Fatal(err)
	}
	var list []clientConfig
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	all := map[string]clientConfig{}
	for _, c := range list {
		all[c.Client] = c
	}
	return all
}

// urls are such as users paste; the last ones are nothing that anyone should have.
var urls = []string{
	"http://127.0.0.1:8888/?token=0123abcdef",
	"http://127.0.0.1:8888",
	"https://jupyter.example.org/prefix/w/team/?token=abc",
	"https://jupyter.example.org/w/team/lab?token=abc",
	"https://jupyter.example.org/Http/w/A%20b/?token=abc",
	"https://[::1]:8443/tree",
	`http://h/$(touch%20pwned)/w/'"` + "`touch pwned`" + `/?token='"$(touch pwned)` + "`touch pwned`" + `\%0Atouch%20pwned%0A`,
}

// inShell runs a script in a POSIX shell with a curl that says what it was asked.
func inShell(t *testing.T, script string, env ...string) string {
	t.Helper()
	dir := t.TempDir()
	curl := "#!/bin/sh\n{ printf '%s\\n' \"$@\"; printf 'stdin:'; cat; } >\"$CURL_LOG\"\nprintf '{\"url\": \"http://gateway/t/0a1b\"}'\n"
	if err := os.WriteFile(filepath.Join(dir, "curl"), []byte(curl), 0o700); err != nil {
		t.Fatal(err)
	}
	log := filepath.Join(dir, "log")
	shell := exec.Command("sh", "-eu", "-c", script+"\nenv | grep ^JUPYTER_ | sort\n[ ! -e \"$CURL_LOG\" ] || cat \"$CURL_LOG\"\nls")
	shell.Dir = t.TempDir()
	shell.Env = append([]string{"PATH=" + dir + ":" + os.Getenv("PATH"), "CURL_LOG=" + log, "HOME=" + os.Getenv("HOME")}, env...)
	out, err := shell.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s\n%s", err, out, script)
	}
	return string(out)
}

func TestPrintedShellRunsAndNothingInTheURLIsACommand(t *testing.T) {
	for _, u := range urls {
		for name, c := range clientConfigs(t, "--url", u) {
			if c.Shell == "" {
				continue
			}
			out := inShell(t, c.Shell, "TOKEN=mine")
			if strings.HasSuffix(out, "\npwned\n") {
				t.Errorf("%s: %s ran a command:\n%s", u, name, c.Shell)
			}
			if !strings.Contains(out, "JUPYTER_GATEWAY_URL=") {
				t.Errorf("%s: %s sets no URL:\n%s", u, name, out)
			}
		}
	}
}

func TestShellSetsWhatTheClientNeeds(t *testing.T) {
	for name, c := range map[string]struct {
		url, client string
		want        []string
		not         string
	}{
		"JupyterLab": {
			"http://127.0.0.1:8888/?token=abc", "jupyterlab",
			[]string{"JUPYTER_GATEWAY_AUTH_TOKEN=abc\n", "JUPYTER_GATEWAY_URL=http://127.0.0.1:8888\n"},
			"WS_URL",
		},
		"JupyterLab, workspace": {
			"https://h/p/w/team/", "jupyterlab", []string{"JUPYTER_GATEWAY_AUTH_TOKEN=mine\n", "JUPYTER_GATEWAY_URL=https://h/p/w/team\n"}, "WS_URL",
		},
		"JupyterLab, capitals": {
			"https://h/w/Team/", "jupyterlab", []string{"JUPYTER_GATEWAY_URL=https://h/w/Team\n", "JUPYTER_GATEWAY_WS_URL=wss://h/w/Team\n"}, "curl",
		},
		"JupyterLab, capability": {
			"https://h/t/0a1b/", "jupyterlab", []string{"JUPYTER_GATEWAY_URL=https://h/t/0a1b\n"}, "AUTH_TOKEN",
		},
		"nbclient": {
			"http://h:1/p/w/a%20b/?token=abc", "nbclient",
			[]string{"JUPYTER_GATEWAY_URL=http://gateway/t/0a1b\n", "\nhttp://h:1/p/v1/capabilities\n", "\nPOST\n", `{"label":"nbclient","workspace":"a b"}`, "stdin:Authorization: token abc"},
			"WS_URL",
		},
		"papermill": {
			"http://h:1/", "papermill", []string{`{"label":"papermill"}`, "\nhttp://h:1/v1/capabilities\n", "stdin:Authorization: token mine"}, "workspace",
		},
		"papermill, http in the prefix": {
			"http://h:1/http/", "papermill", []string{"JUPYTER_GATEWAY_WS_URL=ws://gateway/t/0a1b\n"}, "none",
		},
		"papermill, capability": {
			"http://h:1/t/0a1b", "papermill", []string{"JUPYTER_GATEWAY_URL=http://h:1/t/0a1b\n"}, "curl",
		},
	} {
		t.Run(name, func(t *testing.T) {
			script, err := runCommand(t, nil, "client-config", "--format=shell", "--url", c.url, c.client)
			if err != nil {
				t.Fatal(err)
			}
			out := inShell(t, script, "TOKEN=mine")
			for _, want := range c.want {
				if !strings.Contains(out, want) {
					t.Errorf("no %q in\n%s", want, out)
				}
			}
			if strings.Contains(out, c.not) {
				t.Errorf("%q in\n%s", c.not, out)
			}
		})
	}
}

// The token of a URL must not be in the arguments of any command, which every
// user of a machine can read.
func TestTokenIsInNoArguments(t *testing.T) {
	for name, c := range clientConfigs(t, "--url", "http://h/?token=s3cret") {
		if strings.Contains(c.Start, "s3cret") || strings.Contains(c.Python, "s3cret") || strings.Contains(c.HTML, "s3cret") {
			t.Errorf("%s shows the token: %+v", name, c)
		}
		if c.Shell == "" || name == "jupyterlab" {
			continue
		}
		arguments, _, _ := strings.Cut(inShell(t, c.Shell), "stdin:")
		if strings.Contains(arguments, "s3cret") {
			t.Errorf("%s gives the token to curl as an argument:\n%s", name, arguments)
		}
	}
}

func TestPrintedPythonCompiles(t *testing.T) {
	for name, c := range clientConfigs(t, "--url", urls[0]) {
		if c.Python == "" {
			continue
		}
		python := exec.Command("python3", "-c", "import sys; compile(sys.stdin.read(), 'x', 'exec')")
		python.Stdin = strings.NewReader(c.Python)
		if out, err := python.CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", name, err, out)
		}
	}
}

// jupyter_server's own gateway client reads the environment as it was meant.
func TestRealGatewayClientReadsTheEnvironment(t *testing.T) {
	python, err := filepath.Abs("../../.cache/venv/clients/bin/python")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(python); err != nil {
		t.Skip("!! NOT CHECKED: the printed environment with jupyter_server: run make clients")
	}
	for u, want := range map[string]string{
		"http://127.0.0.1:8888/?token=abc":        "http://127.0.0.1:8888 ws://127.0.0.1:8888 abc True",
		"https://h/w/Team/?token=abc":             "https://h/w/Team wss://h/w/Team abc True",
		"https://h.example/http/w/x/?token=a'b\"": "https://h.example/http/w/x wss://h.example/http/w/x a'b\" True",
	} {
		shell := clientConfigs(t, "--url", u)["jupyterlab"].Shell
		out := inShell(t, shell+shellQuote(python)+` -c 'from jupyter_server.gateway.gateway_client import GatewayClient
c = GatewayClient.instance()
print(c.url, c.ws_url, c.auth_token, c.gateway_enabled)'`)
		if !strings.Contains(out, want+"\n") {
			t.Errorf("%s: want %s, got\n%s", u, want, out)
		}
	}
}

func TestVSCodePastesTheURLItWasGiven(t *testing.T) {
	for u, want := range map[string]string{
		"http://127.0.0.1:8888/?token=abc": "http://127.0.0.1:8888/?token=abc",
		"https://h/p/w/team/lab?token=a+b": "https://h/p/w/team/?token=a+b",
		"https://h/p/":                     "https://h/p/",
	} {
		if got := clientConfigs(t, "--url", u)["vscode"].Paste; got != want {
			t.Errorf("%s: %s, want %s", u, got, want)
		}
	}
}

func TestEmbeddingSiteGetsAFrameAndAFrameAncestor(t *testing.T) {
	for _, c := range []struct {
		url, site string
		same      bool
	}{
		{"https://jupyter.example.org/p/w/team/", "https://notebooks.example.org", true},
		{"https://jupyter.example.org/", "https://example.org:8443", true},
		{"http://127.0.0.1:8888/", "http://127.0.0.1:3000", true},
		{"https://jupyter.example.org/", "http://notebooks.example.org", false},
		{"https://jupyter.example.org/", "https://notebooks.example.com", false},
		{"https://alice.github.io/", "https://bob.github.io", false},
		{"http://127.0.0.1:8888/", "http://127.0.0.2:8888", false},
		{`https://h.example/"><script>/`, "https://h.example", true},
	} {
		embed := clientConfigs(t, "--url", c.url, "--site", c.site, "embed")["embed"]
		if got := strings.Join(embed.Server, " "); got != "--frame-ancestors="+c.site {
			t.Errorf("serve gets %s", got)
		}
		if warned := len(embed.Notes) > 1; warned == c.same {
			t.Errorf("%s in %s: notes %q", c.url, c.site, embed.Notes)
		}
		document, err := html.Parse(strings.NewReader(embed.HTML))
		if err != nil {
			t.Fatal(err)
		}
		frames := 0
		for node := range document.Descendants() {
			switch node.Data {
			case "script":
				t.Errorf("%s became a script in %s", c.url, embed.HTML)
			case "iframe":
				frames++
				if src := node.Attr[0]; src.Key != "src" || !strings.HasSuffix(src.Val, "/lab") {
					t.Errorf("the frame has %v", src)
				}
			}
		}
		if frames != 1 {
			t.Errorf("%d frames in %s", frames, embed.HTML)
		}
		// What serve is told is what it takes.
		if _, err := runCommand(t, nil, append([]string{"config", "check"}, embed.Server...)...); err != nil {
			t.Error(err)
		}
	}
}

func TestTextHasEveryClient(t *testing.T) {
	out, err := runCommand(t, nil, "client-config", "--url", "http://h:1/")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"# JupyterLab of your own", "# VS Code", "# nbclient", "# papermill", "# A site that shows", "jupyter lab\n", "```python\n", "```html\n<iframe",
		"kernelgw serve --frame-ancestors=https://notebooks.example.org\n", "TOKEN is your token",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	if strings.Count(out, "```")%2 != 0 {
		t.Errorf("a block is open in\n%s", out)
	}
}

func TestCapabilityIsOnlyForClientsThatNeedOne(t *testing.T) {
	all := clientConfigs(t, "--url", "http://h:1/t/0a1b/")
	if len(all) != 3 || all["nbclient"].Shell != "export JUPYTER_GATEWAY_URL=http://h:1/t/0a1b\n" {
		t.Errorf("configurations %v", all)
	}
}

func TestClientConfigSaysWhatIsWrong(t *testing.T) {
	for want, args := range map[string][]string{
		"--url":                            {},
		"write it as https://":             {"--url", "127.0.0.1:8888"},
		"without a user name":              {"--url", "http://me:pw@h/"},
		"https://host/":                    {"--url", "file:///etc/passwd"},
		"unknown client \"emacs\": one of": {"--url", "http://h/", "emacs"},
		"name one client":                  {"--url", "http://h/", "--format", "shell"},
		"of jupyterlab, nbclient":          {"--url", "http://h/", "--format", "shell", "vscode"},
		"vscode logs in by itself":         {"--url", "http://h/t/0a1b/", "vscode"},
		"--site":                           {"--url", "http://h/", "--site", "https://a.example/x", "embed"},
		"--format must be one of":          {"--url", "http://h/", "--format", "xml"},
	} {
		_, err := runCommand(t, nil, append([]string{"client-config"}, args...)...)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", args, err, want)
		}
	}
}
