package main

import (
	"encoding"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"reflect"
	"slices"
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
func printConfig(w io.Writer, selected *kong.Node, c *Config) error {
	for _, s := range settings(selected.Flags) {
		if (s.key == "token" || s.key == "metrics_token" || s.key == "admin_token") && s.value != "" {
			s.value = "[not shown]"
		}
		line, err := yaml.Parser().Marshal(map[string]any{s.key: s.value})
		if err != nil {
			return fmt.Errorf("cannot print %s: %w", s.key, err)
		}
		fmt.Fprintf(w, "# %s\n%s", s.help, line)
	}
	lists := map[string]any{}
	if len(c.ImageSigners) > 0 {
		lists["image_signers"] = c.ImageSigners
	}
	if len(c.Users) > 0 {
		lists["users"] = c.Users
	}
	for _, key := range slices.Sorted(maps.Keys(lists)) {
		// Through JSON, whose names are those of the file.
		text, err := json.Marshal(map[string]any{key: lists[key]})
		if err != nil {
			return fmt.Errorf("cannot print %s: %w", key, err)
		}
		var plain map[string]any
		if err := json.Unmarshal(text, &plain); err != nil {
			return fmt.Errorf("cannot print %s: %w", key, err)
		}
		block, err := yaml.Parser().Marshal(plain)
		if err != nil {
			return fmt.Errorf("cannot print %s: %w", key, err)
		}
		if _, err := w.Write(block); err != nil {
			return err
		}
	}
	return nil
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

## Signers of images

Whose signatures images need is listed only in the file too; the first entry whose images match decides, and
` + "`image_verify`" + ` about what none names ([isolation.md](isolation.md#images)):

` + "```yaml" + `
image_signers:
  - images: [ "registry.example.org/team/**" ]  # patterns as of image_allow; without any: all
    verify: require                             # or warn, or off
    keys: [ /etc/kernelgw/team.pub ]            # cosign public keys, PEM
    log: false                                  # true: signatures by keys must be in a transparency log too
    identities:                                 # who may sign without a key; needs image_trust_root
      - issuer: https://issuer.example.org
        subject: builder@example.org            # or subject_pattern, a regular expression
` + "```" + `

## Changes while the gateway runs

SIGHUP makes a running gateway read the users and the image policy (` + "`image_allow`, `image_verify`, `image_trust_root`,\n`image_signers`" + `) again, and
nothing else: who is no longer listed, or lost a token or a workspace, is cut off at once, open WebSockets included; images that are
not admitted any more make no new sandboxes. A configuration that is wrong changes nothing, and the log says why.
`)
	return doc.String()
}
