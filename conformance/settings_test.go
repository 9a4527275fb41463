package conformance

import (
	"encoding/json"
	"net/url"
	"strings"
	"testing"

	"kernelgw/conformance/probe"
)

// Settings and layouts, as JupyterLab keeps them.
var (
	settingChecks = []check{
		{name: "SettingsList", run: settingsList, lab: true},
		{name: "SettingsOfOnePlugin", run: settingsOfOne, lab: true},
		{name: "SettingsAreKept", run: settingsAreKept, lab: true},
		{name: "SettingsRefuseWhatTheSchemaForbids", run: settingsRefuse, lab: true},
		{
			name: "SettingsRefuseNonsense", run: settingsRefuseNonsense, lab: true,
			extension: &extension{because: "it answers 500", fails: "answered 500"},
		},
		{name: "SettingsOfUnknownPluginsAre404", run: settingsUnknown, lab: true},
	}
	layoutChecks = []check{
		{name: "LayoutIsKept", run: layoutIsKept, lab: true},
		{name: "LayoutOfUnknownNameIsEmpty", run: layoutUnknown, lab: true},
		{
			name: "LayoutRefusals", run: layoutRefusals, lab: true,
			extension: &extension{because: "it saves under any name, and answers 500 to some", fails: "answered (204|500)"},
		},
	}
)

type setting struct {
	ID           string
	Schema       map[string]any
	Version      string
	Raw          *string
	Settings     map[string]any
	LastModified *string `json:"last_modified"`
	Created      *string
}

const settingsPath = "lab/api/settings"

func settingsList(t testing.TB, s *target) {
	var all, ids struct{ Settings []setting }
	s.Do(t, "GET", settingsPath+"?1795502306591", nil).Want(t, 200).Decode(t, &all)
	s.Do(t, "GET", settingsPath+"?ids_only=true&1795502306591", nil).Want(t, 200).Decode(t, &ids)
	if len(all.Settings) < 60 || len(ids.Settings) != len(all.Settings) {
		t.Fatalf("%d settings, %d ids", len(all.Settings), len(ids.Settings))
	}
	seen := make(map[string]bool)
	for _, one := range all.Settings {
		if seen[one.ID] || !strings.Contains(one.ID, ":") {
			t.Errorf("the id %q", one.ID)
		}
		seen[one.ID] = true
		if one.Schema["type"] != "object" || one.Version == "" || one.Raw == nil || one.Settings == nil {
			t.Errorf("%s: schema type %v, version %q, raw %v, settings %v", one.ID, one.Schema["type"], one.Version, one.Raw, one.Settings)
		}
	}
	for _, id := range []string{"@jupyterlab/apputils-extension:themes", "@jupyterlab/notebook-extension:tracker", "@jupyter-notebook/application-extension:shell"} {
		if !seen[id] {
			t.Errorf("%s is not listed", id)
		}
	}
}

func settingsOfOne(t testing.TB, s *target) {
	const id = "@jupyterlab/docmanager-extension:plugin"
	for _, path := range []string{id, url.PathEscape(id)} {
		var got setting
		s.Do(t, "GET", settingsPath+"/"+path, nil).Want(t, 200).Decode(t, &got)
		if got.ID != id || got.Schema["properties"] == nil {
			t.Errorf("%s is %+v", path, got)
		}
	}
}

// The checks below each write settings of a plugin of their own.
func saveSetting(t testing.TB, s *target, id, raw string) *probe.Answer {
	t.Helper()
	return s.Do(t, "PUT", settingsPath+"/"+id, map[string]string{"raw": raw})
}

func settingsAreKept(t testing.TB, s *target) {
	const id = "@jupyterlab/filebrowser-extension:browser"
	const raw = "{\n    // a comment that must stay\n    \"navigateToCurrentDirectory\": true,\n    \"showHiddenFiles\": false, // ü\n}"
	saveSetting(t, s, id, raw).Want(t, 204)
	var got setting
	s.Do(t, "GET", settingsPath+"/"+id+"?1795502306591", nil).Want(t, 200).Decode(t, &got)
	if got.Raw == nil || *got.Raw != raw {
		t.Errorf("raw is %v, want what was sent", show(got.Raw))
	}
	if got.LastModified == nil || got.Created == nil {
		t.Errorf("last_modified %v, created %v", got.LastModified, got.Created)
	}
	var all struct{ Settings []setting }
	s.Do(t, "GET", settingsPath, nil).Want(t, 200).Decode(t, &all)
	for _, one := range all.Settings {
		if one.ID == id && (one.Raw == nil || *one.Raw != raw) {
			t.Errorf("in the list raw is %v", show(one.Raw))
		}
	}
	saveSetting(t, s, id, "{}").Want(t, 204)
	s.Do(t, "GET", settingsPath+"/"+id, nil).Want(t, 200).Decode(t, &got)
	if *got.Raw != "{}" {
		t.Errorf("raw is %q after it was emptied", *got.Raw)
	}
}

func settingsRefuse(t testing.TB, s *target) {
	const id = "@jupyterlab/docmanager-extension:plugin"
	for what, raw := range map[string]string{"a wrong type": `{"autosave": "perhaps"}`, "text for a number": `{"autosaveInterval": "x"}`} {
		if answer := saveSetting(t, s, id, raw); answer.Status != 400 {
			t.Errorf("%s answered %d, want 400: %.200s", what, answer.Status, answer.Body)
		}
	}
	var got setting
	s.Do(t, "GET", settingsPath+"/"+id, nil).Want(t, 200).Decode(t, &got)
	if got.Raw == nil || *got.Raw != "{}" {
		t.Errorf("raw is %s after nothing but refusals", show(got.Raw))
	}
}

func settingsRefuseNonsense(t testing.TB, s *target) {
	const id = "@jupyterlab/console-extension:tracker"
	for what, body := range map[string]any{
		"no JSON5": map[string]string{"raw": `{"autosave": `}, "a list": map[string]string{"raw": "[1]"}, "deep": map[string]string{"raw": strings.Repeat("[", 20_000)},
		"raw is a number": map[string]any{"raw": 1}, "no object": `"x"`, "no raw": `{}`, "no JSON": `{`, "not UTF-8": "{\"raw\": \"\xff\"}",
	} {
		if answer := s.Do(t, "PUT", settingsPath+"/"+id, body); answer.Status != 400 {
			t.Errorf("%s answered %d, want 400: %.200s", what, answer.Status, answer.Body)
		}
	}
}

func settingsUnknown(t testing.TB, s *target) {
	for _, id := range []string{"@jupyterlab/no-such-extension:plugin", "@jupyterlab/docmanager-extension:no-such-plugin", "x"} {
		s.Do(t, "GET", settingsPath+"/"+id, nil).Want(t, 404)
		answer := saveSetting(t, s, id, "{}")
		if answer.Status != 404 && answer.Status != 400 {
			t.Errorf("PUT %s answered %d, want 404", id, answer.Status)
		}
	}
}

const layoutsPath = "lab/api/workspaces"

type layout struct {
	Data     map[string]json.RawMessage `json:"data"`
	Metadata struct {
		ID           string `json:"id"`
		LastModified string `json:"last_modified"`
		Created      string `json:"created"`
	} `json:"metadata"`
}

func layoutIsKept(t testing.TB, s *target) {
	name := "w-" + probe.ID()
	at := layoutsPath + "/" + name
	saved := map[string]any{"data": map[string]any{"layout-restorer:data": map[string]any{"ü": 1}}, "metadata": map[string]any{"id": name}}
	s.Do(t, "PUT", at+"?1795502306591", saved).Want(t, 204)
	var got layout
	s.Do(t, "GET", at, nil).Want(t, 200).Decode(t, &got)
	if got.Metadata.ID != name || string(got.Data["layout-restorer:data"]) == "" {
		t.Errorf("the layout is %+v", got)
	}
	var all struct {
		Workspaces struct {
			IDs    []string
			Values []layout
		}
	}
	s.Do(t, "GET", layoutsPath+"?1795502306591", nil).Want(t, 200).Decode(t, &all)
	listed := false
	for i, one := range all.Workspaces.Values {
		if one.Metadata.ID == name {
			listed = true
			if one.Metadata.LastModified == "" || one.Metadata.Created == "" || i >= len(all.Workspaces.IDs) || all.Workspaces.IDs[i] != name {
				t.Errorf("listed as %+v, ids %v", one.Metadata, all.Workspaces.IDs)
			}
		}
	}
	if !listed {
		t.Error("the layout is not listed")
	}
	s.Do(t, "DELETE", at, nil).Want(t, 204)
	s.Do(t, "DELETE", at, nil).Want(t, 404)
	s.Do(t, "GET", at, nil).Want(t, 200).Decode(t, &got)
}

func layoutUnknown(t testing.TB, s *target) {
	name := "w-" + probe.ID()
	var got layout
	s.Do(t, "GET", layoutsPath+"/"+name, nil).Want(t, 200).Decode(t, &got)
	if strings.TrimPrefix(got.Metadata.ID, "/") != name || got.Data == nil || len(got.Data) != 0 {
		t.Errorf("a layout that nobody saved is %+v", got)
	}
}

func layoutRefusals(t testing.TB, s *target) {
	name := "w-" + probe.ID()
	for what, body := range map[string]string{
		"another id": `{"data":{},"metadata":{"id":"other"}}`, "no JSON": `{`, "no metadata": `{"data":{}}`,
	} {
		if answer := s.Do(t, "PUT", layoutsPath+"/"+name, body); answer.Status != 400 {
			t.Errorf("%s answered %d, want 400: %.200s", what, answer.Status, answer.Body)
		}
	}
	for _, bad := range []string{"%00", strings.Repeat("n", 5000)} {
		body := map[string]any{"data": map[string]any{}, "metadata": map[string]any{"id": bad}}
		if answer := s.Do(t, "PUT", layoutsPath+"/"+bad, body); answer.Status >= 500 || answer.Status == 204 {
			t.Errorf("the name %.20q answered %d", bad, answer.Status)
		}
	}
}
