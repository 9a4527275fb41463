package main

import (
	"cmp"
	"fmt"
	"os"

	"github.com/go-viper/mapstructure/v2"
	"github.com/knadh/koanf/v2"

	"kernelgw/sandboxes/image"
	"kernelgw/sandboxes/image/trust"
)

// ImagePolicyConfig says which images may be stored and used. The signers are
// set only in the file.
type ImagePolicyConfig struct {
	ImageAllow     []string `help:"Images that may be used: a digest as sha256:..., the name of an image that was built or imported here, or HOST/REPOSITORY with :TAG, @sha256:... or neither behind it; * stands for a part of a name, /** for everything below. Without any, all may be used."`
	ImageVerify    string   `help:"What becomes of images that no image_signers names: off (used), warn (used, with a warning) or require (refused, as nobody may sign them)." enum:"off,warn,require" default:"off"`
	ImageTrustRoot string   `help:"Sigstore trusted root (trusted_root.json): whose certificates and logs are believed for keyless signatures. It is never fetched." type:"path"`

	ImageSigners []SignerConfig `kong:"-" json:"image_signers,omitempty"`
}

// SignerConfig says whose signatures some images need, as the configuration
// file names it.
type SignerConfig struct {
	Images     []string         `koanf:"images" json:"images,omitempty"` // patterns as of image_allow; without any, all
	Verify     string           `koanf:"verify" json:"verify,omitempty"` // off, warn or require, the default
	Keys       []string         `koanf:"keys" json:"keys,omitempty"`     // files
	Log        bool             `koanf:"log" json:"log,omitempty"`       // signatures by keys too must be in a log
	Identities []IdentityConfig `koanf:"identities" json:"identities,omitempty"`
}

// IdentityConfig is who may sign without a key.
type IdentityConfig struct {
	Issuer         string `koanf:"issuer" json:"issuer"`
	Subject        string `koanf:"subject" json:"subject,omitempty"`
	SubjectPattern string `koanf:"subject_pattern" json:"subject_pattern,omitempty"`
}

// policy reads the files that are named; nil is when nothing is asked for.
func (c *ImagePolicyConfig) imagePolicy() (*image.Policy, error) {
	if len(c.ImageAllow) == 0 && len(c.ImageSigners) == 0 && cmp.Or(c.ImageVerify, "off") == "off" {
		return nil, nil
	}
	policy := &image.Policy{Verify: image.Mode(c.ImageVerify)}
	var err error
	if policy.Allow, err = patterns("image_allow", c.ImageAllow); err != nil {
		return nil, err
	}
	var root []byte
	if c.ImageTrustRoot != "" {
		if root, err = os.ReadFile(c.ImageTrustRoot); err != nil {
			return nil, fmt.Errorf("image_trust_root: %w", err)
		}
	}
	for i, signer := range c.ImageSigners {
		rule, err := signer.rule(fmt.Sprintf("image_signers[%d]", i), root)
		if err != nil {
			return nil, err
		}
		policy.Rules = append(policy.Rules, rule)
	}
	return policy, nil
}

func (s *SignerConfig) rule(key string, root []byte) (image.SignatureRule, error) {
	rule := image.SignatureRule{Name: key, Verify: image.Mode(cmp.Or(s.Verify, string(image.VerifyRequire)))}
	switch rule.Verify {
	case image.VerifyOff, image.VerifyWarn, image.VerifyRequire:
	default:
		return rule, fmt.Errorf("%s.verify: %q is not off, warn or require", key, s.Verify)
	}
	var err error
	if rule.Images, err = patterns(key+".images", s.Images); err != nil {
		return rule, err
	}
	if rule.Verify == image.VerifyOff && len(s.Keys)+len(s.Identities) == 0 {
		return rule, nil
	}
	opts := trust.Options{Root: root}
	for _, file := range s.Keys {
		pem, err := os.ReadFile(file)
		if err != nil {
			return rule, fmt.Errorf("%s.keys: %w", key, err)
		}
		opts.Keys = append(opts.Keys, trust.Key{Name: file, PEM: pem, Log: s.Log})
	}
	for _, id := range s.Identities {
		opts.Identities = append(opts.Identities, trust.Identity(id))
	}
	verifier, err := trust.New(opts)
	if err != nil {
		return rule, fmt.Errorf("%s: %w; set keys, or identities and image_trust_root", key, err)
	}
	rule.Verifier = verifier
	return rule, nil
}

func patterns(key string, texts []string) ([]image.Pattern, error) {
	list := make([]image.Pattern, len(texts))
	for i, text := range texts {
		var err error
		if list[i], err = image.ParsePattern(text); err != nil {
			return nil, fmt.Errorf("%s: %w", key, err)
		}
	}
	return list, nil
}

// signers reads the image signers of the configuration file.
func (r *fileResolver) signers() (signers []SignerConfig, err error) {
	err = r.values.UnmarshalWithConf("image_signers", &signers, koanf.UnmarshalConf{
		Tag: "koanf", DecoderConfig: &mapstructure.DecoderConfig{TagName: "koanf", Result: &signers, ErrorUnused: true},
	})
	if err != nil {
		return nil, fmt.Errorf("configuration file %s: image_signers: %w", r.path, err)
	}
	return signers, nil
}
