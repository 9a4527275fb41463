package main

import (
	"encoding"
	"fmt"
	"io"
	"reflect"
	"strings"

	"github.com/alecthomas/kong"
	"github.com/knadh/koanf/parsers/yaml"
)

// setting is one key of the configuration, as the parser knows it.
type setting struct {
	key, env, help, fallback string
	value                    any
}

// settings lists the keys of a command's flags in their order, without those
// that are not configuration.
func settings(flags []*kong.Flag) []setting {
	var list []setting
	for _, flag := range flags {
		if flag.Name == "help" || flag.Name == "config" {
			continue
		}
		s := setting{key: fileKey(flag.Name), help: flag.Help, fallback: flag.Default}
		if len(flag.Envs) > 0 {
			s.env = flag.Envs[0]
		}
		if flag.Target.IsValid() {
			s.value = plain(flag.Target)
		}
		list = append(list, s)
	}
	return list
}

// plain turns a flag's value into what a configuration file holds.
func plain(value reflect.Value) any {
	switch v := value.Interface().(type) {
	case encoding.TextMarshaler:
		text, err := v.MarshalText()
		if err != nil {
			return fmt.Sprint(v)
		}
		return string(text)
	case fmt.Stringer:
		return v.String()
	default:
		return v
	}
}

// printConfig writes the configuration in effect in the form of the file.
// Tokens are not shown.
func printConfig(w io.Writer, selected *kong.Node, users []UserConfig) error {
	for _, s := range settings(selected.Flags) {
		if (s.key == "token" || s.key == "metrics_token") && s.value != "" {
			s.value = "[not shown]"
		}
		line, err := yaml.Parser().Marshal(map[string]any{s.key: s.value})
		if err != nil {
			return fmt.Errorf("cannot print %s: %w", s.key, err)
		}
		fmt.Fprintf(w, "# %s\n%s", s.help, line)
	}
	if len(users) == 0 {
		return nil
	}
	list := make([]map[string]any, 0, len(users))
	for _, u := range users {
		list = append(list, map[string]any{
			"name": u.Name, "display_name": u.DisplayName, "token_sha256": u.TokenSHA256, "workspaces": u.Workspaces,
		})
	}
	block, err := yaml.Parser().Marshal(map[string]any{"users": list})
	if err != nil {
		return fmt.Errorf("cannot print users: %w", err)
	}
	_, err = w.Write(block)
	return err
}

// configDoc is docs/config.md: every key with its variable, default and
// meaning.
func configDoc(serve *kong.Node) string {
	var doc strings.Builder
	doc.WriteString(`# Configuration

Generated from cmd/kernelgw/config.go by ` + "`go test ./cmd/kernelgw -run TestConfigDoc -update`" + `; do not edit.

Every setting is a flag of ` + "`kernelgw serve`" + `, an environment variable and a key of the YAML file that
` + "`--config FILE`" + ` (or KERNELGW_CONFIG) names. A flag wins over the environment, which wins over the file.
` + "`kernelgw config check`" + ` says what is wrong, ` + "`kernelgw config print`" + ` shows what is in effect.

| key in the file | environment | default | meaning |
|---|---|---|---|
`)
	for _, s := range settings(serve.Flags) {
		fallback := s.fallback
		if s.key == "data_dir" {
			fallback = "/var/lib/kernelgw as root, else ~/.local/share/kernelgw"
		}
		fmt.Fprintf(&doc, "| `%s` | `%s` | %s | %s |\n", s.key, s.env, fallback, strings.ReplaceAll(s.help, "|", "\\|"))
	}
	doc.WriteString(`
The flag of a key has hyphens for underscores: ` + "`data_dir` is `--data-dir`" + `.

## Users

Users are listed only in the file. Without any, the server has a single user with ` + "`token`" + `.

` + "```yaml" + `
users:
  - name: alice                 # never reuse a name for another person
    display_name: Alice         # optional
    token_sha256: [ "<64 hexadecimal digits>" ]   # kernelgw token new prints a token and this
    workspaces: [ alice, team ] # the first is the default; without any: one named like the user
` + "```" + `

Each user sees only the kernels, sessions and files of those workspaces; anything else answers 404.

SIGHUP makes a running gateway read the users again, and nothing else of the file: who is no longer listed, or lost a token
or a workspace, is cut off at once, open WebSockets included. A file that is wrong changes nothing, and the log says why.
`)
	return doc.String()
}
