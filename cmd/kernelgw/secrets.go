package main

import (
	"fmt"
	"path/filepath"

	"kernelgw/kernelgw/secrets"
)

// SecretsCmd looks after the secrets of workspaces.
type SecretsCmd struct {
	Rotate SecretsRotateCmd `cmd:"" help:"Add a new key: the next start of the gateway encrypts all secrets with it."`
}

// SecretsRotateCmd adds a key.
type SecretsRotateCmd struct {
	DataDir string `help:"Directory of everything that the gateway keeps." default:"${data_dir}" type:"path"`
}

// Run adds a key to the file, and says what is left to do.
func (c *SecretsRotateCmd) Run(env *environment) error {
	path := filepath.Join(c.DataDir, secretKeys)
	keys, err := secrets.OpenIdentities(path)
	if err != nil {
		return err
	}
	if err := keys.Rotate(); err != nil {
		return fmt.Errorf("cannot add a key to %s: %w", path, err)
	}
	_, err = fmt.Fprintf(env.stdout, "a new key is in %s: restart the gateway, which encrypts all secrets with it; when its log has said how many, remove the older lines\n", path)
	return err
}

// secretKeys is the file of the keys in the data directory.
const secretKeys = "secrets.keys"
