package frontend

// disabledExtensions do not start: the announcements fetch news of a server
// that we are not, and the two managers install packages into a server that has
// none (threats.md, section 2: CVE-2026-42266).
var disabledExtensions = []string{
	"@jupyterlab/apputils-extension:announcements",
	"@jupyterlab/extensionmanager-extension",
	"@jupyterlab/pluginmanager-extension",
}

// serverVersion is the jupyter_server whose API we speak; Lab uploads in chunks
// to it.
const serverVersion = "[2, 21, 1]"

// pageConfig returns what all pages are told (contract section 6.3). Nothing in
// it names a path of the host: jupyter_server's own does.
func (f *Frontend) pageConfig(at At) map[string]any {
	federated := make([]map[string]string, len(f.extensions))
	for i, e := range f.extensions {
		federated[i] = e.pageConfig()
	}
	config := map[string]any{
		"baseUrl": at.Base, "wsUrl": "", "token": at.Token,
		"appName": f.o.AppName, "appVersion": f.lab.version, "appNamespace": "lab",
		"fullStaticUrl":        at.Base + "static/lab",
		"federated_extensions": federated,
		"disabledExtensions":   append(append([]string{}, disabledExtensions...), f.o.DisabledExtensions...),
		"terminalsAvailable":   f.o.Terminals,
		"notebookVersion":      serverVersion,
		"preferredPath":        "/",
		"buildAvailable":       false, "buildCheck": false,
		"devMode": false, "cacheFiles": true, "store_id": 0, "news": map[string]bool{"disabled": true},
		"quitButton": false, "exposeAppInBrowser": false,
		"notebookStartsKernel": true, "delete_to_trash": true, "allow_hidden_files": false, "copyAbsolutePath": false,
	}
	if at.Token != "" {
		// A token is there because the page cannot rely on cookies: WebSockets
		// need it, too.
		config["appendToken"] = "true"
	}
	for key, below := range map[string]string{
		"app": "lab", "doc": "doc", "tree": "tree", "labextensions": "lab/extensions", "themes": "lab/api/themes",
		"settings": "lab/api/settings", "translationsApi": "lab/api/translations", "workspacesApi": "lab/api/workspaces",
		"licenses": "lab/api/licenses", "listings": "lab/api/listings",
	} {
		config[key+"Url"] = "/" + below
		config["full"+string(key[0]-'a'+'A')+key[1:]+"Url"] = at.Base + below
	}
	return config
}
