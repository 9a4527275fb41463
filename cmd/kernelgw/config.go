package main

import (
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/alecthomas/kong"
	"github.com/go-viper/mapstructure/v2"
	"github.com/knadh/koanf/parsers/yaml"
	"github.com/knadh/koanf/providers/file"
	"github.com/knadh/koanf/v2"

	"kernelgw/auth/token"
	"kernelgw/kernelgw/registry/memory"
)

// Config is everything that can be set. Each field is a flag of serve, an
// environment variable KERNELGW_* and a key of the configuration file (with
// underscores); a flag wins over the environment, which wins over the file.
// Users are set only in the file.
type Config struct {
	Listen      string   `help:"Address to listen on, host:port. Default: 127.0.0.1:8888, or the next free port."`
	DataDir     string   `help:"Directory of everything that the gateway keeps." default:"${data_dir}" type:"path"`
	BaseURL     string   `help:"Path under which everything is served, as in /prefix/." default:"/"`
	Token       string   `help:"Token of the single user. Without one, and without users, a random token is made and kept in the data directory. JUPYTER_TOKEN and JUPYTER_TOKEN_FILE are honoured too."`
	TLSCert     string   `help:"PEM certificate chain; serves HTTPS. Needs tls-key." type:"path"`
	TLSKey      string   `help:"PEM key of tls-cert." type:"path"`
	AllowOrigin []string `help:"Origins of web pages on other hosts that may use the API, as in https://notebooks.example.org. Compared exactly."`

	AllowCredentials bool     `help:"Let those pages send the login cookie."`
	FrameAncestors   []string `help:"Origins of web pages that may embed the gateway's pages."`
	TrustedProxies   []string `help:"Addresses of reverse proxies whose X-Forwarded-Proto is believed, as in 10.0.0.0/8."`

	Driver        string        `help:"What makes sandboxes: auto (gvisor), gvisor, containerd (Kata microVMs; needs runtime), or process (no isolation; for trusted code only, never chosen by auto)." enum:"auto,gvisor,containerd,process" default:"auto"`
	Image         string        `help:"Image of the sandboxes, by name or digest in the image store. Default: the one named default. The process driver uses none."`
	ImageStore    string        `help:"Directory of images. Default: images in the data directory if there are any, else .cache/images beside the binary's directory." type:"path"`
	DefaultKernel string        `help:"Kernelspec that is used when a client names none." default:"python3"`
	CPUs          float64       `name:"cpus" help:"CPU cores of each sandbox; 0 means no limit. Limits are not applied by the process driver." default:"0"`
	Memory        ByteSize      `help:"Memory of each sandbox, as in 2GiB." default:"2GiB"`
	Processes     int64         `help:"Processes and threads of each sandbox." default:"512"`
	Disk          ByteSize      `help:"Size of each sandbox's writable layer." default:"4GiB"`
	Shm           ByteSize      `help:"Size of /dev/shm of each sandbox; 0 means a quarter of its memory." default:"0"`
	OpenFiles     int64         `help:"Files that one process of a sandbox may have open; 0 means 4096." default:"0"`
	AllowedEnv    []string      `help:"Environment variables that clients may set for a kernel beside KERNEL_*."`
	StartTimeout  time.Duration `help:"Time to make a sandbox and reach its agent." default:"2m"`
	WorkDir       string        `help:"Directory of the host in which kernels of the process driver start. They then do not see the workspace's files. Default: a directory for each with those files." type:"path"`

	IsolationConfig
	ImagePolicyConfig
	StorageConfig
	OutputConfig
	FrontendConfig

	MaxMessage     ByteSize      `help:"Largest message over a kernel WebSocket." default:"100MiB"`
	DrainTimeout   time.Duration `help:"Time that a stopping gateway gives its connections." default:"10s"`
	OnExit         string        `help:"What becomes of kernels when the gateway is stopped by a signal: keep (the next gateway adopts them) or stop." enum:"keep,stop" default:"keep"`
	MaxTerminals   int           `help:"Terminals of one workspace. They share a sandbox." default:"20"`
	TerminalIdle   time.Duration `help:"Time after which a terminal that nobody looks at, and in which nothing happens, is ended." default:"12h"`
	TerminalLinger time.Duration `help:"Time that the sandbox of a workspace's terminals stays after the last one has ended, or a notebook was converted in it." default:"5m"`
	MaxSockets     int           `help:"Open WebSockets and streams of one user, to kernels and terminals." default:"1000"`
	AdminToken     string        `help:"Token for /debug/pprof, the gateway's profiles, and nothing else. Without it, only the single user may read them."`
	MetricsPublic  bool          `help:"Serve /metrics without a token."`
	MetricsToken   string        `help:"Token for /metrics and nothing else. Without it, only the single user may read them: they tell of all users."`
	LogLevel       string        `help:"Least level that is logged." enum:"debug,info,warn,error" default:"info"`
	LogFormat      string        `help:"Form of log lines." enum:"text,json" default:"text"`
	Runsc          string        `help:"The runsc binary of the gvisor driver. Default: .cache/tools/bin/runsc beside the binary's directory, else runsc in PATH." type:"path"`
	Agent          string        `help:"The agent binary. Default: kernelagent beside this binary." type:"path"`

	Users []UserConfig `kong:"-" json:"users,omitempty"`
}

// UserConfig is a user as the configuration file names it. Only the SHA-256 of
// a token is kept (kernelgw token new makes both).
type UserConfig struct {
	Name        string   `koanf:"name" json:"name"`
	DisplayName string   `koanf:"display_name" json:"display_name,omitempty"`
	TokenSHA256 []string `koanf:"token_sha256" json:"token_sha256"`
	Workspaces  []string `koanf:"workspaces" json:"workspaces"` // the first is the default
}

// ByteSize is a number of bytes, written as a plain number or with a unit:
// KiB, MiB, GiB, TiB, or the decimal KB, MB, GB, TB.
type ByteSize int64

var byteUnits = map[string]float64{
	"": 1, "b": 1,
	"kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40,
	"kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12,
}

var byteSize = regexp.MustCompile(`^([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)$`)

// UnmarshalText implements encoding.TextUnmarshaler.
func (b *ByteSize) UnmarshalText(text []byte) error {
	parts := byteSize.FindStringSubmatch(strings.TrimSpace(string(text)))
	if parts == nil {
		return fmt.Errorf("%q is not a size: write it as 512MiB or 2GiB", text)
	}
	unit, ok := byteUnits[strings.ToLower(parts[2])]
	if !ok {
		return fmt.Errorf("%q has an unknown unit: use KiB, MiB, GiB or TiB", text)
	}
	number, err := strconv.ParseFloat(parts[1], 64)
	if err != nil || number*unit > 1<<60 {
		return fmt.Errorf("%q is too large", text)
	}
	*b = ByteSize(number * unit)
	return nil
}

// MarshalText implements encoding.TextMarshaler.
func (b ByteSize) MarshalText() ([]byte, error) {
	for _, unit := range []struct {
		name string
		size ByteSize
	}{{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}} {
		if b >= unit.size && b%unit.size == 0 {
			return fmt.Appendf(nil, "%d%s", b/unit.size, unit.name), nil
		}
	}
	return fmt.Append(nil, int64(b)), nil
}

// validate names the first key that is wrong, and what to do about it.
func (c *Config) validate() error {
	if _, _, err := net.SplitHostPort(c.Listen); err != nil && c.Listen != "" {
		return fmt.Errorf("listen: %q is not host:port; write 127.0.0.1:8888, or :8888 for all addresses", c.Listen)
	}
	if !strings.HasPrefix(c.BaseURL, "/") || strings.ContainsAny(c.BaseURL, "?#% ") || strings.Contains(c.BaseURL, "//") {
		return fmt.Errorf("base_url: %q is not a path like /prefix/", c.BaseURL)
	}
	if !strings.HasSuffix(c.BaseURL, "/") {
		c.BaseURL += "/"
	}
	if (c.TLSCert == "") != (c.TLSKey == "") {
		return errors.New("tls_cert, tls_key: set both or none")
	}
	if c.CPUs < 0 || c.Processes < 16 || c.Memory < 64<<20 || c.Disk < 1<<20 {
		return errors.New("cpus, processes, memory, disk: too small to run a kernel; the least are 0 (no limit), 16, 64MiB and 1MiB")
	}
	if c.OpenFiles != 0 && c.OpenFiles < 64 {
		return fmt.Errorf("open_files: %d are too few to run a kernel; at least 64, or 0 for the default", c.OpenFiles)
	}
	for _, origin := range c.AllowOrigin {
		if u, err := url.Parse(origin); err != nil || u.Scheme == "" || u.Host == "" || u.Path != "" || origin != strings.ToLower(origin) {
			return fmt.Errorf("allow_origin: %q is not an origin; write it as https://host or https://host:port, lower case, without a path", origin)
		}
	}
	if c.Token != "" && strings.ContainsFunc(c.Token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return errors.New("token: it holds spaces, control or non-ASCII characters, which cannot travel in a header")
	}
	if c.MaxTerminals < 1 {
		return fmt.Errorf("max_terminals: %d; at least 1", c.MaxTerminals)
	}
	if c.TerminalIdle <= 0 {
		return fmt.Errorf("terminal_idle: %v; it must be longer", c.TerminalIdle)
	}
	if c.TerminalLinger < time.Second {
		return fmt.Errorf("terminal_linger: %v is too short to open the next terminal; at least 1s", c.TerminalLinger)
	}
	if c.MaxSockets < 1 {
		return errors.New("max_sockets: nobody could use a kernel; at least 1")
	}
	if c.Token != "" && len(c.Users) > 0 {
		return errors.New("token: it is for a single user, but users are configured; give each user a token_sha256 and unset token (also JUPYTER_TOKEN)")
	}
	if _, err := c.proxies(); err != nil {
		return err
	}
	if err := c.IsolationConfig.validate(); err != nil {
		return err
	}
	if _, err := c.imagePolicy(); err != nil {
		return err
	}
	if err := c.StorageConfig.validate(); err != nil {
		return err
	}
	if err := c.OutputConfig.validate(); err != nil {
		return err
	}
	if err := c.FrontendConfig.validate(); err != nil {
		return err
	}
	return c.validateUsers()
}

// proxies parses TrustedProxies.
func (c *Config) proxies() ([]netip.Prefix, error) {
	var list []netip.Prefix
	for _, text := range c.TrustedProxies {
		prefix, err := netip.ParsePrefix(text)
		if addr, addrErr := netip.ParseAddr(text); addrErr == nil {
			prefix, err = addr.Prefix(addr.BitLen())
		}
		if err != nil {
			return nil, fmt.Errorf("trusted_proxies: %q is not an address or a network like 10.0.0.0/8", text)
		}
		list = append(list, prefix)
	}
	return list, nil
}

// validateUsers checks what the file can get wrong; token.New, which serve and
// config check call alike, checks the rest.
func (c *Config) validateUsers() error {
	for i, u := range c.Users {
		if len(u.TokenSHA256) == 0 {
			return fmt.Errorf("users[%d].token_sha256: user %s has no token; make one with: kernelgw token new", i, u.Name)
		}
		for j, hash := range u.TokenSHA256 {
			if b, err := hex.DecodeString(hash); err != nil || len(b) != 32 {
				return fmt.Errorf("users[%d].token_sha256: not 64 hexadecimal digits; it is the hash, not the token: kernelgw token new prints both", i)
			}
			c.Users[i].TokenSHA256[j] = strings.ToLower(hash)
		}
	}
	if len(c.Users) == 0 {
		return nil // the single user's token is made when serving begins
	}
	users, err := token.New(token.Options{Users: tokenUsers(c), Store: memory.New(), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return fmt.Errorf("users: %w", err)
	}
	users.Close()
	return nil
}

// fileResolver gives kong the values of the configuration file.
type fileResolver struct {
	path   string
	values *koanf.Koanf
	getenv func(string) string
}

// loadFile reads a configuration file; an empty path gives an empty one.
func loadFile(path string, getenv func(string) string) (*fileResolver, error) {
	r := &fileResolver{path: path, values: koanf.New("."), getenv: getenv}
	if path == "" {
		return r, nil
	}
	if err := r.values.Load(file.Provider(path), yaml.Parser()); err != nil {
		return nil, fmt.Errorf("cannot read configuration file %s: %w", path, err)
	}
	return r, nil
}

func fileKey(flag string) string { return strings.ReplaceAll(flag, "-", "_") }

// Validate implements kong.Resolver: a key that serve does not read is a
// mistake. Flags that only other commands have are no configuration.
func (r *fileResolver) Validate(app *kong.Application) error {
	known := map[string]bool{"image_signers": true, "users": true}
	for _, command := range app.Children {
		if command.Name != "serve" {
			continue
		}
		for _, flag := range command.Flags {
			known[fileKey(flag.Name)] = true
		}
	}
	for _, key := range slices.Sorted(maps.Keys(r.values.Raw())) {
		if !known[key] {
			return fmt.Errorf("configuration file %s: unknown key %q; kernelgw config print lists all keys", r.path, key)
		}
	}
	return nil
}

// Resolve implements kong.Resolver.
func (r *fileResolver) Resolve(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
	for _, env := range flag.Envs {
		if r.getenv(env) != "" {
			return nil, nil // kong has taken the environment's value, which wins
		}
	}
	key := fileKey(flag.Name)
	if !r.values.Exists(key) {
		return nil, nil
	}
	switch value := r.values.Get(key).(type) {
	case []any:
		items := make([]string, len(value))
		for i, item := range value {
			items[i] = fmt.Sprint(item)
		}
		return strings.Join(items, ","), nil
	case bool:
		return value, nil
	case nil:
		return nil, nil // a key without a value is as if it were not there
	case string:
		if value == "" {
			return nil, nil // an empty path is not the current directory
		}
		return value, nil
	case int, int64, uint64, float64:
		if flag.Target.Kind() == reflect.String {
			return nil, fmt.Errorf("write %v in quotes: it is a text, and YAML would change it as a number", value)
		}
		return fmt.Sprint(value), nil
	default:
		return nil, fmt.Errorf("a value of this kind cannot be used here: %v", value)
	}
}

// users reads the users of the configuration file.
func (r *fileResolver) users() (users []UserConfig, err error) {
	err = r.values.UnmarshalWithConf("users", &users, koanf.UnmarshalConf{
		Tag: "koanf", DecoderConfig: &mapstructure.DecoderConfig{TagName: "koanf", Result: &users, ErrorUnused: true},
	})
	if err != nil {
		return nil, fmt.Errorf("configuration file %s: users: %w", r.path, err)
	}
	return users, nil
}

// defaultDataDir is where root and ordinary users keep such things.
func defaultDataDir(getenv func(string) string) string {
	if os.Getuid() == 0 {
		return "/var/lib/kernelgw"
	}
	base := getenv("XDG_DATA_HOME")
	if base == "" {
		base = filepath.Join(getenv("HOME"), ".local", "share")
	}
	return filepath.Join(base, "kernelgw")
}

// jupyterToken is the token that Jupyter's own conventions give.
func jupyterToken(getenv func(string) string) (string, error) {
	if token := getenv("JUPYTER_TOKEN"); token != "" {
		return token, nil
	}
	if token := getenv("KG_AUTH_TOKEN"); token != "" {
		return token, nil
	}
	path := getenv("JUPYTER_TOKEN_FILE")
	if path == "" {
		return "", nil
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("cannot read the token of JUPYTER_TOKEN_FILE: %w", err)
	}
	return strings.TrimSpace(string(content)), nil
}
