package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"io"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/net/publicsuffix"
)

// ClientConfigCmd prints how clients are connected.
type ClientConfigCmd struct {
	Clients []string `arg:"" optional:"" name:"client" help:"${client_names}. Without any: all that the URL is good for."`
	URL     string   `required:"" help:"The URL of the gateway or of a workspace (.../w/NAME/), as its users reach it, with ?token= or without; or of a capability (.../t/SECRET/)."`
	Format  string   `enum:"text,shell,json" default:"text" help:"text to read; shell, of one client, to eval; or json."`
	Site    string   `default:"https://notebooks.example.org" help:"For embed: the origin of the site that shows the pages."`
}

// clientNames are the clients in the order in which they are printed.
var clientNames = []string{"jupyterlab", "vscode", "nbclient", "papermill", "embed"}

// clientConfig is how one client is connected. Shell is for a POSIX shell.
type clientConfig struct {
	Client string   `json:"client"`
	Title  string   `json:"title"`
	Notes  []string `json:"notes"`
	Paste  string   `json:"paste,omitempty"`  // what a person enters
	Server []string `json:"server,omitempty"` // arguments that kernelgw serve needs
	Shell  string   `json:"shell,omitempty"`  // sets what the client reads from the environment
	Start  string   `json:"start,omitempty"`  // a command that starts the client then
	Python string   `json:"python,omitempty"`
	HTML   string   `json:"html,omitempty"`
}

// Run prints the configurations.
func (c *ClientConfigCmd) Run(env *environment) error {
	g, err := parseGateway(c.URL)
	if err != nil {
		return err
	}
	wanted := c.Clients
	if len(wanted) == 0 {
		for _, name := range clientNames {
			if !g.capability || takesCapability(name) {
				wanted = append(wanted, name)
			}
		}
	}
	var configs []clientConfig
	for _, name := range wanted {
		config, err := g.configure(name, c.Site)
		if err != nil {
			return err
		}
		if strings.Contains(config.Shell, noToken) {
			config.Notes = append(config.Notes, "TOKEN is your token: export TOKEN=... first.")
		}
		configs = append(configs, config)
	}
	switch {
	case c.Format == "json":
		encoder := json.NewEncoder(env.stdout)
		encoder.SetIndent("", "  ")
		encoder.SetEscapeHTML(false)
		return encoder.Encode(configs)
	case c.Format == "shell" && (len(configs) != 1 || configs[0].Shell == ""):
		return errors.New("--format=shell: name one client of jupyterlab, nbclient, papermill")
	case c.Format == "shell":
		_, err := io.WriteString(env.stdout, configs[0].Shell)
		return err
	}
	for i, config := range configs {
		if i > 0 {
			fmt.Fprintln(env.stdout)
		}
		if err := config.print(env.stdout); err != nil {
			return err
		}
	}
	return nil
}

// print writes a configuration as Markdown.
func (c clientConfig) print(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "# %s\n\n", c.Title)
	for _, note := range c.Notes {
		fmt.Fprintf(&b, "%s\n", note)
	}
	block := func(language, text string) {
		if text != "" {
			fmt.Fprintf(&b, "\n```%s\n%s\n```\n", language, strings.TrimSuffix(text, "\n"))
		}
	}
	if len(c.Server) > 0 {
		quoted := make([]string, len(c.Server))
		for i, arg := range c.Server {
			quoted[i] = shellQuote(arg)
		}
		block("sh", "kernelgw serve "+strings.Join(quoted, " "))
	}
	block("", c.Paste)
	block("sh", c.Shell+c.Start)
	block("python", c.Python)
	block("html", c.HTML)
	_, err := io.WriteString(w, b.String())
	return err
}

// gateway is a gateway as its users reach it. URLs have no slash at the end.
type gateway struct {
	root       string // where /v1 is
	base       string // the complete Jupyter server
	workspace  string // "" is the user's default one
	token      string // "" when it was not given
	capability bool   // base has a secret of its own
}

// mount is a workspace or a capability at the end of a URL's path.
var mount = regexp.MustCompile(`^(.*)/([wt])/([^/]+)$`)

func parseGateway(text string) (gateway, error) {
	u, err := url.Parse(text)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.User != nil || u.Opaque != "" {
		return gateway{}, errors.New("--url: write it as https://host/ or https://host/prefix/w/NAME/, without a user name")
	}
	g := gateway{token: u.Query().Get("token")}
	path := strings.TrimRight(u.EscapedPath(), "/")
	for _, page := range []string{"/lab", "/tree"} {
		path = strings.TrimSuffix(path, page)
	}
	origin := u.Scheme + "://" + u.Host
	g.root, g.base = origin+path, origin+path
	if parts := mount.FindStringSubmatch(path); parts != nil {
		g.root = origin + parts[1]
		g.capability = parts[2] == "t"
		if !g.capability {
			if g.workspace, err = url.PathUnescape(parts[3]); err != nil {
				return gateway{}, fmt.Errorf("--url: %w", err)
			}
		}
	}
	return g, nil
}

func takesCapability(client string) bool {
	return slices.Contains([]string{"jupyterlab", "nbclient", "papermill"}, client)
}

// configure makes the configuration of one client.
func (g gateway) configure(client, site string) (clientConfig, error) {
	if g.capability && slices.Contains(clientNames, client) && !takesCapability(client) {
		return clientConfig{}, fmt.Errorf("%s logs in by itself: give the --url without the capability", client)
	}
	switch client {
	case "jupyterlab":
		return g.jupyterLab(), nil
	case "vscode":
		return g.vsCode(), nil
	case "nbclient":
		return g.nbclient(), nil
	case "papermill":
		return g.papermill(), nil
	case "embed":
		return g.embed(site)
	}
	return clientConfig{}, fmt.Errorf("unknown client %q: one of %s", client, strings.Join(clientNames, ", "))
}

func (g gateway) jupyterLab() clientConfig {
	c := clientConfig{
		Client: "jupyterlab", Title: "JupyterLab of your own",
		Notes: []string{
			"Its pages and files stay where it runs; kernels run in the gateway.",
			"The token is in the environment, where other users of the machine do not see it.",
		},
		Start: "jupyter lab\n",
	}
	c.Shell = g.gatewayURL()
	if g.capability {
		c.Notes = c.Notes[:1]
	} else {
		c.Shell += "export JUPYTER_GATEWAY_AUTH_TOKEN=" + g.shellToken() + "\n"
	}
	return c
}

func (g gateway) vsCode() clientConfig {
	c := clientConfig{
		Client: "vscode", Title: "VS Code",
		Notes: []string{"Select Kernel > Existing Jupyter Server... > Enter the URL of the running Jupyter Server, and paste:"},
		Paste: g.base + "/?token=" + url.QueryEscape(g.token),
	}
	if g.token == "" {
		c.Paste = g.base + "/"
		c.Notes = append(c.Notes, "When it asks for the password, enter your token.")
	}
	return c
}

func (g gateway) nbclient() clientConfig {
	return clientConfig{
		Client: "nbclient", Title: "nbclient", Notes: g.capabilityNotes(), Shell: g.capabilityShell("nbclient"),
		Python: `import nbclient, nbformat
from jupyter_server.gateway.managers import GatewayKernelManager

nb = nbformat.read("in.ipynb", as_version=4)
nbclient.NotebookClient(nb, kernel_manager_class=GatewayKernelManager, iopub_timeout=60).execute()
nbformat.write(nb, "out.ipynb")
`,
	}
}

func (g gateway) papermill() clientConfig {
	return clientConfig{
		Client: "papermill", Title: "papermill", Notes: g.capabilityNotes(), Shell: g.capabilityShell("papermill"),
		Python: `import papermill
from jupyter_server.gateway.managers import GatewayKernelManager

papermill.execute_notebook("in.ipynb", "out.ipynb", kernel_manager_class=GatewayKernelManager, iopub_timeout=60)
`,
	}
}

func (g gateway) embed(site string) (clientConfig, error) {
	origin, err := url.Parse(site)
	if err != nil || (origin.Scheme != "http" && origin.Scheme != "https") || origin.Host == "" || origin.Path != "" || site != strings.ToLower(site) {
		return clientConfig{}, fmt.Errorf("--site: %q is not an origin; write it as https://host or https://host:port, lower case, without a path", site)
	}
	c := clientConfig{
		Client: "embed", Title: "A site that shows the pages in a frame",
		Notes: []string{
			"Start the gateway with the site as a frame ancestor, and put the frame into the site's page. Users log in inside the frame.",
		},
		Server: []string{"--frame-ancestors=" + site},
		HTML:   `<iframe src="` + html.EscapeString(g.base+"/lab") + `" title="JupyterLab" style="width: 100%; height: 100vh; border: 0" allow="clipboard-read; clipboard-write"></iframe>`,
	}
	here, err := url.Parse(g.base)
	if err != nil {
		return clientConfig{}, fmt.Errorf("--url: %w", err)
	}
	if !sameSite(origin, here) {
		c.Notes = append(c.Notes, "But "+site+" and "+here.Scheme+"://"+here.Host+" are two sites to a browser, which keeps the login's cookie (SameSite=Lax) "+
			"out of the frame: give both a host below one domain, and the same scheme.")
	}
	return c, nil
}

// sameSite reports whether a browser sends the cookies of one in a frame of the
// other: same scheme, and the same registrable domain or host.
func sameSite(a, b *url.URL) bool {
	if a.Scheme != b.Scheme {
		return false
	}
	domain := func(host string) string {
		if registrable, err := publicsuffix.EffectiveTLDPlusOne(host); err == nil && net.ParseIP(host) == nil {
			return registrable
		}
		return host
	}
	return domain(strings.ToLower(a.Hostname())) == domain(strings.ToLower(b.Hostname()))
}

func (g gateway) capabilityNotes() []string {
	if g.capability {
		return []string{"The URL is a capability: whoever has it can use the workspace."}
	}
	return []string{
		"It sends no credentials on its WebSocket, so it gets a capability: a URL that carries its own.",
		"List capabilities with GET " + g.root + "/v1/capabilities, revoke one with DELETE .../ID.",
	}
}

// capabilityShell sets the URL for a client that sends no credentials.
func (g gateway) capabilityShell(label string) string {
	if g.capability {
		return g.gatewayURL()
	}
	wanted, err := json.Marshal(struct {
		Label     string `json:"label"`
		Workspace string `json:"workspace,omitempty"`
	}{label, g.workspace})
	if err != nil {
		panic("two strings are no JSON: " + err.Error())
	}
	// The header goes through a pipe: arguments are seen by everyone.
	shell := "export JUPYTER_GATEWAY_URL=\"$(printf 'Authorization: token %s' " + g.shellToken() + " |\n" +
		"  curl -fsS -X POST -H @- -H 'Content-Type: application/json' -d " + shellQuote(string(wanted)) + " " + shellQuote(g.root+"/v1/capabilities") + " |\n" +
		"  python3 -c 'import json, sys; print(json.load(sys.stdin)[\"url\"])')\"\n"
	if needsSocketURL(g.root + "/t/0") {
		shell += "export JUPYTER_GATEWAY_WS_URL=\"ws${JUPYTER_GATEWAY_URL#http}\"\n"
	}
	return shell
}

// gatewayURL sets the URL that jupyter_server's gateway client reads.
func (g gateway) gatewayURL() string {
	shell := "export JUPYTER_GATEWAY_URL=" + shellQuote(g.base) + "\n"
	if needsSocketURL(g.base) {
		shell += "export JUPYTER_GATEWAY_WS_URL=" + shellQuote(socketURL(g.base)) + "\n"
	}
	return shell
}

func socketURL(base string) string { return "ws" + strings.TrimPrefix(base, "http") }

// needsSocketURL reports whether jupyter_server's gateway client would make a
// wrong WebSocket URL of a base URL: it lower-cases all of it, and replaces
// every "http" (contract section 1.4).
func needsSocketURL(base string) bool {
	return strings.ReplaceAll(strings.ToLower(base), "http", "ws") != socketURL(base)
}

// noToken is the token in the shell when it was not given.
const noToken = `"$TOKEN"`

// shellToken returns the token as a word of the shell.
func (g gateway) shellToken() string {
	if g.token == "" {
		return noToken
	}
	return shellQuote(g.token)
}

// shellSafe are words that a shell takes as they are.
var shellSafe = regexp.MustCompile(`^[A-Za-z0-9_./:@%+=,-]+$`)

// shellQuote makes one word of a text.
func shellQuote(text string) string {
	if shellSafe.MatchString(text) {
		return text
	}
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}
