package image

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// suite is the Debian release that the default image is made of. Its Python
// must be the one that requirements.lock was made for.
const suite = "bookworm"

// apt runs the host's apt-get on a state of its own: nothing of the host's
// package database is read or changed, and no root is needed. Sources,
// keyrings, proxies and credentials are the host's, so packages come from where
// this host may fetch them and are verified as the host verifies its own.
type apt struct {
	dir  string // state, cache and configuration
	arch string // Debian's name of the architecture
}

// deb is one package file as apt resolved it.
type deb struct {
	file string // name in the archives directory, with version and architecture
	size int64
}

// newApt prepares dir. It needs apt-get and dpkg-deb, as every Debian has.
func newApt(ctx context.Context, dir string, without []string) (*apt, error) {
	for _, tool := range []string{"apt-get", "apt-config", "dpkg", "dpkg-deb"} {
		if _, err := exec.LookPath(tool); err != nil {
			return nil, fmt.Errorf("%s is not here: the default image is built on Debian 12 (any machine can \"kernelgw image pull\" one): %w", tool, err)
		}
	}
	out, err := run(ctx, aptEnv(""), "dpkg", "--print-architecture")
	if err != nil {
		return nil, err
	}
	a := &apt{dir: dir, arch: strings.TrimSpace(string(out))}
	if triples[a.arch] == "" {
		return nil, fmt.Errorf("the default image cannot be built on %s, only on amd64 and arm64", a.arch)
	}
	for _, sub := range []string{"state/lists/partial", "cache/archives/partial", "etc/sources.list.d", "none"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return nil, err
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "status"), []byte(pretendInstalled(without)), 0o644); err != nil {
		return nil, err
	}
	dump, err := run(ctx, aptEnv(""), "apt-config", "dump")
	if err != nil {
		return nil, err
	}
	if err := a.writeSources(parseAptConfig(dump)); err != nil {
		return nil, err
	}
	return a, os.WriteFile(a.config(), []byte(a.privateConfig(dump)), 0o644)
}

func (a *apt) config() string { return filepath.Join(a.dir, "apt.conf") }

func aptEnv(config string) []string {
	env := append(os.Environ(), "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive")
	if config != "" {
		env = append(env, "APT_CONFIG="+config)
	}
	return env
}

// pretendInstalled is a dpkg status file in which the packages to leave out
// are installed, so that apt does not ask for them.
func pretendInstalled(packages []string) string {
	var b strings.Builder
	for _, p := range packages {
		fmt.Fprintf(&b, "Package: %s\nStatus: install ok installed\nVersion: 9999\nArchitecture: all\nMulti-Arch: foreign\nMaintainer: none\nDescription: left out\n", p)
		if p == "debconf" {
			b.WriteString("Provides: debconf-2.0\n")
		}
		b.WriteString("\n")
	}
	return b.String()
}

var aptConfigLine = regexp.MustCompile(`^(\S+) "(.*)";$`)

// parseAptConfig reads "apt-config dump". Of a list the last value stays.
func parseAptConfig(dump []byte) map[string]string {
	vars := make(map[string]string)
	for sc := bufio.NewScanner(bytes.NewReader(dump)); sc.Scan(); {
		if m := aptConfigLine.FindStringSubmatch(sc.Text()); m != nil {
			vars[m[1]] = m[2]
		}
	}
	return vars
}

// hostOnly are the settings of the host that are not taken over: hooks, which
// act on the host, and what names its own packages.
var hostOnly = regexp.MustCompile(`(?i)^(DPkg::|APT::Update::|APT::Architectures?\b|APT::Default-Release|APT::Install-|APT::NeverAutoRemove|APT::Periodic|Acquire::IndexTargets|Acquire::Languages|Dir(::State|::Cache|::Etc::(parts|main|sourcelist|sourceparts|preferences|preferencesparts))|Unattended-Upgrade|Binary::)`)

// privateConfig is the host's configuration with our directories in place of
// its own.
func (a *apt) privateConfig(dump []byte) string {
	var b strings.Builder
	for line := range strings.Lines(string(dump)) {
		if !hostOnly.MatchString(line) {
			b.WriteString(line)
		}
	}
	set := func(key, value string) { fmt.Fprintf(&b, "%s %q;\n", key, value) }
	set("Dir::State", filepath.Join(a.dir, "state"))
	set("Dir::State::lists", "lists/")
	set("Dir::State::status", filepath.Join(a.dir, "status"))
	set("Dir::Cache", filepath.Join(a.dir, "cache"))
	set("Dir::Cache::archives", "archives/")
	none := filepath.Join(a.dir, "none")
	set("Dir::Etc::parts", none)
	set("Dir::Etc::main", filepath.Join(none, "apt.conf"))
	set("Dir::Etc::sourcelist", filepath.Join(none, "sources.list"))
	set("Dir::Etc::sourceparts", filepath.Join(a.dir, "etc/sources.list.d"))
	set("Dir::Etc::preferences", filepath.Join(none, "preferences"))
	set("Dir::Etc::preferencesparts", none)
	set("APT::Architecture", a.arch)
	set("APT::Architectures::", a.arch)
	set("APT::Install-Recommends", "false")
	set("APT::Install-Suggests", "false")
	set("Acquire::Languages", "none")
	// As root apt drops to a user that cannot write into our directory.
	set("APT::Sandbox::User", "root")
	set("Acquire::Retries", "3")
	return b.String()
}

// writeSources copies those sources of the host that are Debian's main archive
// of our suite, so that the image does not depend on what else a host uses.
func (a *apt) writeSources(conf map[string]string) error {
	etc := under("/", conf["Dir"], conf["Dir::Etc"])
	files := []string{under(etc, conf["Dir::Etc::sourcelist"])}
	parts := under(etc, conf["Dir::Etc::sourceparts"])
	entries, err := os.ReadDir(parts)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("cannot read apt's sources: %w", err)
	}
	for _, e := range entries {
		if ext := filepath.Ext(e.Name()); ext == ".list" || ext == ".sources" {
			files = append(files, filepath.Join(parts, e.Name()))
		}
	}
	var list, deb822 []string
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("cannot read apt's sources: %w", err)
		}
		if filepath.Ext(file) == ".sources" {
			deb822 = append(deb822, suiteStanzas(string(raw))...)
		} else {
			list = append(list, suiteLines(string(raw))...)
		}
	}
	if len(list)+len(deb822) == 0 {
		return fmt.Errorf("none of this host's apt sources is Debian %s main: the default image is built on Debian 12 (any machine can \"kernelgw image pull\" one)", suite)
	}
	dir := filepath.Join(a.dir, "etc/sources.list.d")
	if err := os.WriteFile(filepath.Join(dir, "host.list"), []byte(strings.Join(list, "\n")+"\n"), 0o600); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "host.sources"), []byte(strings.Join(deb822, "\n")), 0o600)
}

// under joins path elements of which a later absolute one starts anew, as
// apt's FindDir does.
func under(elems ...string) string {
	p := ""
	for _, e := range elems {
		if filepath.IsAbs(e) {
			p = e
		} else {
			p = filepath.Join(p, e)
		}
	}
	return p
}

func ourSuite(s string) bool {
	s = strings.TrimSuffix(s, "/updates")
	return s == suite || s == suite+"-updates" || s == suite+"-security"
}

// suiteLines picks the one-line sources of our suite's main archive.
func suiteLines(text string) []string {
	var lines []string
	for _, line := range dataLines([]byte(text)) {
		rest, isDeb := strings.CutPrefix(line, "deb ")
		if !isDeb {
			continue
		}
		options := ""
		rest = strings.TrimSpace(rest)
		if strings.HasPrefix(rest, "[") {
			end := strings.Index(rest, "]")
			if end < 0 {
				continue
			}
			options, rest = rest[:end+1]+" ", rest[end+1:]
		}
		f := strings.Fields(rest)
		if len(f) >= 3 && ourSuite(f[1]) && slices.Contains(f[2:], "main") {
			lines = append(lines, fmt.Sprintf("deb %s%s %s main", options, f[0], f[1]))
		}
	}
	return lines
}

var blankLines = regexp.MustCompile(`\n[ \t]*\n`)

// suiteStanzas picks the deb822 sources of our suite's main archive.
func suiteStanzas(text string) []string {
	var stanzas []string
	for _, stanza := range blankLines.Split(strings.ReplaceAll(text, "\r", ""), -1) {
		fields := make(map[string][]string)
		var kept []string
		key := ""
		for line := range strings.Lines(stanza) {
			line = strings.TrimRight(line, "\n")
			if strings.HasPrefix(line, "#") || strings.TrimSpace(line) == "" {
				continue
			}
			value := line
			if line[0] != ' ' && line[0] != '\t' {
				var ok bool
				if key, value, ok = strings.Cut(line, ":"); !ok {
					key = ""
					continue
				}
				key = strings.ToLower(key)
			}
			fields[key] = append(fields[key], strings.Fields(value)...)
			if key != "types" && key != "suites" && key != "components" {
				kept = append(kept, line)
			}
		}
		suites := slices.DeleteFunc(fields["suites"], func(s string) bool { return !ourSuite(s) })
		off := strings.ToLower(strings.Join(fields["enabled"], ""))
		if len(suites) == 0 || off == "no" || off == "false" || off == "0" ||
			!slices.Contains(fields["types"], "deb") || !slices.Contains(fields["components"], "main") {
			continue
		}
		stanzas = append(stanzas, fmt.Sprintf("Types: deb\nSuites: %s\nComponents: main\n%s\n", strings.Join(suites, " "), strings.Join(kept, "\n")))
	}
	return stanzas
}

// update fetches and verifies the package lists.
func (a *apt) update(ctx context.Context) error {
	_, err := run(ctx, aptEnv(a.config()), "apt-get", "-q", "-o", "APT::Update::Error-Mode=any", "update")
	if err != nil {
		return fmt.Errorf("cannot fetch Debian's package lists: %w", err)
	}
	return nil
}

var uriLine = regexp.MustCompile(`(?m)^'[^']*' (\S+\.deb) (\d+)`)

// resolve returns the closure of the packages in apt's order of installation.
func (a *apt) resolve(ctx context.Context, packages []string) ([]deb, error) {
	// With no archives at hand, so that every file is listed.
	argv := []string{
		"apt-get", "-q", "-y", "--print-uris",
		"-o", "Dir::Cache::archives=" + filepath.Join(a.dir, "none"), "install",
	}
	out, err := run(ctx, aptEnv(a.config()), append(argv, packages...)...)
	if err != nil {
		return nil, fmt.Errorf("cannot resolve Debian packages: %w", err)
	}
	var debs []deb
	for _, m := range uriLine.FindAllStringSubmatch(string(out), -1) {
		size, err := strconv.ParseInt(m[2], 10, 64)
		if err != nil {
			return nil, fmt.Errorf("cannot resolve Debian packages: size of %s: %w", m[1], err)
		}
		debs = append(debs, deb{m[1], size})
	}
	if len(debs) == 0 {
		return nil, fmt.Errorf("cannot resolve Debian packages: apt-get named no file:\n%s", out)
	}
	return debs, nil
}

func (a *apt) path(d deb) string { return filepath.Join(a.dir, "cache/archives", d.file) }

// download fetches the packages that are not here yet; apt verifies each
// against the signed lists as it arrives.
func (a *apt) download(ctx context.Context, packages []string, debs []deb, p *Progress) error {
	if a.checkDownloaded(debs) == nil {
		return nil
	}
	var total int64
	for _, d := range debs {
		total += d.size
	}
	err := p.During(func() string {
		return fmt.Sprintf("downloading packages: %s of %s", mb(a.downloaded(debs)), mb(total))
	}, func() error {
		argv := []string{"apt-get", "-q", "-y", "--download-only", "install"}
		_, err := run(ctx, aptEnv(a.config()), append(argv, packages...)...)
		return err
	})
	if err != nil {
		return fmt.Errorf("cannot download Debian packages: %w", err)
	}
	return a.checkDownloaded(debs)
}

func (a *apt) checkDownloaded(debs []deb) error {
	for _, d := range debs {
		info, err := os.Stat(a.path(d))
		if err != nil {
			return fmt.Errorf("cannot download Debian packages: %w", err)
		}
		if info.Size() != d.size {
			return fmt.Errorf("cannot download Debian packages: %s has %d bytes, not %d", d.file, info.Size(), d.size)
		}
	}
	return nil
}

func (a *apt) downloaded(debs []deb) int64 {
	var n int64
	for _, d := range debs {
		for _, file := range []string{a.path(d), filepath.Join(a.dir, "cache/archives/partial", d.file)} {
			if info, err := os.Stat(file); err == nil {
				n += info.Size()
				break
			}
		}
	}
	return n
}
