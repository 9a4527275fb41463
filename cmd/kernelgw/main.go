// Command kernelgw is a Jupyter server for untrusted code: every kernel runs
// in a sandbox of its own.
package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"

	"kernelgw/kernelgw"
	"kernelgw/sandboxes/gvisor"
	"kernelgw/sandboxes/process"
)

// version is set by the build.
var version = "devel"

// CLI is the command line.
type CLI struct {
	ConfigFile string `name:"config" help:"YAML configuration file." type:"path"`

	Serve        ServeCmd        `cmd:"" help:"Run the gateway."`
	Doctor       DoctorCmd       `cmd:"" help:"Tell what this host can do, and which driver would be chosen and why."`
	Image        ImageCmd        `cmd:"" help:"Build, fetch and list images of sandboxes."`
	Storage      StorageCmd      `cmd:"" help:"Look after the file storage."`
	Secrets      SecretsCmd      `cmd:"" help:"Look after the keys of the secrets of workspaces."`
	Config       ConfigCmd       `cmd:"" help:"Check or print the configuration."`
	ClientConfig ClientConfigCmd `cmd:"" help:"Print how to connect clients: JupyterLab, VS Code, nbclient, papermill, an embedding site."`
	Token        TokenCmd        `cmd:"" help:"Make tokens for users."`
	Routes       RoutesCmd       `cmd:"" help:"Print the route table."`
	Version      VersionCmd      `cmd:"" help:"Print the version."`
}

// environment is what commands get from the outside.
type environment struct {
	ctx            context.Context // ends at the first SIGINT or SIGTERM
	getenv         func(string) string
	stdout, stderr io.Writer
	file           *fileResolver
	reread         func() (Config, error) // reads the serve command's configuration again, as it is now
}

func main() {
	if len(os.Args) == 3 {
		// Drivers run this program again as the parent of a sandbox.
		switch os.Args[1] {
		case gvisor.SupervisorCommand:
			exitOn(gvisor.Supervise(os.Args[2]))
			return
		case process.SupervisorCommand:
			exitOn(process.Supervise(os.Args[2]))
			return
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	exitOn(run(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr))
}

func exitOn(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "kernelgw:", err)
		os.Exit(1)
	}
}

// run parses the command line and runs the command that it names.
func run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) error {
	env := environment{ctx: ctx, getenv: getenv, stdout: stdout, stderr: stderr}
	parsed, _, err := env.parse(args)
	if err != nil {
		return err
	}
	env.reread = func() (Config, error) {
		again := env
		_, cli, err := again.parse(args)
		if err != nil {
			return Config{}, err
		}
		return cli.Serve.Config, cli.Serve.complete(&again)
	}
	return parsed.Run(&env)
}

// parse parses the command line, with the configuration file as it is now.
func (env *environment) parse(args []string) (*kong.Context, *CLI, error) {
	path, err := configPath(args, env.getenv)
	if err != nil {
		return nil, nil, err
	}
	if env.file, err = loadFile(path, env.getenv); err != nil {
		return nil, nil, err
	}
	var cli CLI
	parser, err := kong.New(&cli,
		kong.Name("kernelgw"),
		kong.Description("A Jupyter server for untrusted code: every kernel runs in a sandbox of its own."),
		kong.DefaultEnvars("KERNELGW"),
		vars(env.getenv),
		kong.Resolvers(env.file),
		kong.Writers(env.stdout, env.stderr),
		kong.UsageOnError(),
	)
	if err != nil {
		return nil, nil, fmt.Errorf("the command line is defined wrongly: %w", err)
	}
	parsed, err := parser.Parse(args)
	return parsed, &cli, err
}

// vars are what help texts and defaults name.
func vars(getenv func(string) string) kong.Vars {
	return kong.Vars{"client_names": strings.Join(clientNames, ", "), "data_dir": defaultDataDir(getenv)}
}

// configPath finds --config before the rest is parsed, because the file gives
// values to the rest.
func configPath(args []string, getenv func(string) string) (string, error) {
	for i, arg := range args {
		if value, ok := strings.CutPrefix(arg, "--config="); ok {
			return value, nil
		}
		if arg == "--config" {
			if i+1 == len(args) {
				return "", errors.New("--config: name the file")
			}
			return args[i+1], nil
		}
	}
	return getenv("KERNELGW_CONFIG"), nil
}

// complete adds to the parsed flags what they do not hold, and validates all.
func (c *Config) complete(env *environment) (err error) {
	if c.Users, err = env.file.users(); err != nil {
		return err
	}
	if c.ImageSigners, err = env.file.signers(); err != nil {
		return err
	}
	if c.Token == "" && len(c.Users) == 0 {
		if c.Token, err = jupyterToken(env.getenv); err != nil {
			return err
		}
	}
	return c.validate()
}

// ConfigCmd checks or prints the configuration.
type ConfigCmd struct {
	Check ConfigCheckCmd `cmd:"" help:"Check the configuration file, the environment and the flags."`
	Print ConfigPrintCmd `cmd:"" help:"Print the configuration in effect, without secrets."`
}

// ConfigCheckCmd checks the configuration.
type ConfigCheckCmd struct{ Config }

// Run checks the configuration; its error names the key and the remedy.
func (c *ConfigCheckCmd) Run(env *environment) error {
	if err := c.complete(env); err != nil {
		return err
	}
	fmt.Fprintln(env.stdout, "the configuration is valid")
	return nil
}

// ConfigPrintCmd prints the configuration.
type ConfigPrintCmd struct{ Config }

// Run prints the configuration in effect in the form of the file.
func (c *ConfigPrintCmd) Run(env *environment, parsed *kong.Context) error {
	if err := c.complete(env); err != nil {
		return err
	}
	return printConfig(env.stdout, parsed.Selected(), &c.Config)
}

// TokenCmd makes tokens.
type TokenCmd struct {
	New TokenNewCmd `cmd:"" help:"Make a token for a user of the configuration file."`
}

// TokenNewCmd makes a token.
type TokenNewCmd struct{}

// Run prints a new token, for the user, and its hash, for the file.
func (*TokenNewCmd) Run(env *environment) error {
	token := newToken()
	hash := sha256.Sum256([]byte(token))
	fmt.Fprintf(env.stdout, "token (give it to the user; it is not kept):  %s\ntoken_sha256 (for the configuration file):     %s\n",
		token, hex.EncodeToString(hash[:]))
	return nil
}

// newToken returns a token of 192 random bits, as Jupyter's are.
func newToken() string {
	var random [24]byte
	rand.Read(random[:]) // never fails: it ends the program instead
	return hex.EncodeToString(random[:])
}

// RoutesCmd prints the route table.
type RoutesCmd struct{}

// Run prints the table in Markdown.
func (*RoutesCmd) Run(env *environment) error {
	_, err := fmt.Fprint(env.stdout, kernelgw.RoutesDoc())
	return err
}

// VersionCmd prints the version.
type VersionCmd struct {
	JSON bool `help:"Print JSON."`
}

// Run prints the version.
func (c *VersionCmd) Run(env *environment) error {
	if c.JSON {
		return json.NewEncoder(env.stdout).Encode(map[string]string{"version": version})
	}
	fmt.Fprintln(env.stdout, "kernelgw", version)
	return nil
}
