package kernelgw

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"kernelgw/auth"
	"kernelgw/jupyter/rest"
	"kernelgw/kernelgw/kernels"
	"kernelgw/kernelgw/policies"
	"kernelgw/sandboxes"
)

// Governed is what the server needs of *kernels.Manager for policies; see there
// for the behaviour of each method.
type Governed interface {
	Capabilities() sandboxes.Capabilities
	CheckImage(ctx context.Context, image string) error
	ApplyPolicy(ctx context.Context, workspace string) ([]kernels.Outdated, error)
	Outdated(ctx context.Context, workspace string) ([]kernels.Outdated, error)
}

// policyRoutes are what a workspace's sandboxes may do. Whoever came by a
// capability may look.
func policyRoutes() []Route {
	const path = "v1/workspaces/:workspace/policy"
	named := []Mount{Default, Capability}
	return []Route{
		row(http.MethodGet, path, auth.API, named, "What the sandboxes of the workspace may use and reach, what may be chosen, and which run under something else", (*Server).getPolicy),
		row(http.MethodPut, path, auth.API, named, "Choose that, within the operator's bounds; If-Match with the ETag of a GET makes it fail if somebody else was faster", (*Server).putPolicy),
		row(http.MethodDelete, path, auth.API, named, "Back to what the operator set; If-Match as for PUT", (*Server).deletePolicy),
	}
}

// maxPolicyBytes bounds a policy.
const maxPolicyBytes = 64 << 10

// policyModel is the answer of all three methods.
type policyModel struct {
	Policy    policies.Policy `json:"policy"`    // what was chosen
	Effective policies.Policy `json:"effective"` // what that means for a sandbox that is made now
	Bounds    boundsModel     `json:"bounds"`    // what may be chosen
	Enforced  enforcedModel   `json:"enforced"`  // of it, by this server's driver
	Changed   *rest.Time      `json:"changed"`   // null: never
	By        string          `json:"by,omitempty"`
	Outdated  []outdatedModel `json:"outdated"`
}

type boundsModel struct {
	Egress  []sandboxes.Egress `json:"egress"`
	Hosts   bool               `json:"hosts"` // hosts of one's own in network.allow
	Mirrors []string           `json:"mirrors"`
	Images  []string           `json:"images"`
	Most    *policies.Limits   `json:"most"`   // what is missing has no bound
	Output  policies.Output    `json:"output"` // of what kernels show, at most; the same
}

type enforcedModel struct {
	Network   bool `json:"network"`
	Memory    bool `json:"memory"`
	Processes bool `json:"processes"`
	Disk      bool `json:"disk"`
}

// outdatedModel is a kernel, or the terminals, for which a part of the policy
// does not hold until they end.
type outdatedModel struct {
	Kernel string   `json:"kernel"`
	Parts  []string `json:"parts"` // network, limits, image, output
}

func (s *Server) getPolicy(c *call) error {
	if s.o.Policies == nil {
		return errNoPolicies
	}
	kept, err := s.o.Policies.Get(c.Request().Context(), c.workspace)
	if err != nil {
		return err
	}
	outdated, err := s.o.Kernels.Outdated(c.Request().Context(), c.workspace)
	if err != nil {
		return err
	}
	return s.answerPolicy(c, kept, outdated)
}

func (s *Server) putPolicy(c *call) error {
	if err := s.mayGovern(c); err != nil {
		return err
	}
	if len(c.body) > maxPolicyBytes {
		return tooLarge(maxPolicyBytes)
	}
	policy, err := policies.Parse(c.body)
	if err != nil {
		return policyError(err)
	}
	if policy.Image != "" {
		if err := s.o.Kernels.CheckImage(c.Request().Context(), s.o.Policies.Settle(policy).Image); err != nil {
			return err
		}
	}
	return s.setPolicy(c, policy)
}

func (s *Server) deletePolicy(c *call) error {
	if err := s.mayGovern(c); err != nil {
		return err
	}
	return s.setPolicy(c, policies.Policy{})
}

func (s *Server) mayGovern(c *call) error {
	switch {
	case s.o.Policies == nil:
		return errNoPolicies
	case c.who.Method == auth.MethodCapability:
		return forbidden("A capability may look at the policy of its workspace, not change it")
	}
	return nil
}

// applyPatience bounds how long a change of what sandboxes may reach takes.
const applyPatience = 20 * time.Second

// setPolicy keeps a policy and makes it hold.
func (s *Server) setPolicy(c *call, policy policies.Policy) error {
	ctx := c.Request().Context()
	// A gateway that does not know its kernels yet could not tell which are outdated.
	if _, err := s.o.Kernels.Outdated(ctx, c.workspace); err != nil {
		return err
	}
	kept, err := s.keepPolicy(c, policy)
	if err != nil {
		return policyError(err)
	}
	s.o.Log.Info("policy set", "audit", "policy", "workspace", c.workspace, "user", c.owner(), "version", kept.Version)
	// It is kept: what it closes is closed also if the caller has gone.
	applying, cancel := context.WithTimeout(context.WithoutCancel(ctx), applyPatience)
	defer cancel()
	outdated, err := s.o.Kernels.ApplyPolicy(applying, c.workspace)
	if err != nil {
		return fmt.Errorf("the policy of workspace %s is kept, but may not hold yet: %w", c.workspace, err)
	}
	return s.answerPolicy(c, kept, outdated)
}

// keepPolicy replaces the policy that If-Match names, or whichever there is.
func (s *Server) keepPolicy(c *call, policy policies.Policy) (policies.Kept, error) {
	ctx := c.Request().Context()
	condition := strings.Join(c.Request().Header.Values("If-Match"), ",")
	for {
		current, err := s.o.Policies.Get(ctx, c.workspace)
		if err != nil {
			return policies.Kept{}, err
		}
		if condition != "" && !matchesTag(condition, policyTag(current)) {
			return policies.Kept{}, policies.ErrChanged
		}
		kept, err := s.o.Policies.Set(ctx, c.workspace, policy, current.Version, c.owner())
		if errors.Is(err, policies.ErrChanged) && condition == "" && ctx.Err() == nil {
			continue
		}
		return kept, err
	}
}

func (s *Server) answerPolicy(c *call, kept policies.Kept, outdated []kernels.Outdated) error {
	can, bounds := s.o.Kernels.Capabilities(), s.o.Policies.Bounds()
	m := policyModel{
		Policy: kept.Policy, Effective: modelSettings(s.o.Policies.Settle(kept.Policy)), By: kept.By,
		Bounds: boundsModel{
			Egress: bounds.Egress, Hosts: bounds.Hosts, Mirrors: some(bounds.Mirrors), Images: some(bounds.Images), Most: modelLimits(bounds.Most), Output: bounds.Output,
		},
		Enforced: enforcedModel{Network: can.NetworkPolicy, Memory: can.MemoryLimit, Processes: can.ProcessLimit, Disk: can.DiskLimit},
		Outdated: make([]outdatedModel, 0, len(outdated)),
	}
	if !kept.Changed.IsZero() {
		m.Changed = &rest.Time{Time: kept.Changed}
	}
	for _, o := range outdated {
		m.Outdated = append(m.Outdated, modelOutdated(o))
	}
	c.Response().Header().Set("ETag", policyTag(kept))
	return c.JSON(http.StatusOK, m)
}

func modelSettings(s policies.Settings) policies.Policy {
	return policies.Policy{
		Network: &policies.Network{Egress: s.Network.Egress, Allow: s.Network.Allow, Mirror: s.Network.Mirror},
		Limits:  modelLimits(s.Resources), Image: s.Image, Output: &s.Output,
	}
}

func modelLimits(r sandboxes.Resources) *policies.Limits {
	return &policies.Limits{
		CPUs: r.CPUs, MemoryBytes: r.MemoryBytes, Processes: r.Processes, DiskBytes: r.DiskBytes, ShmBytes: r.ShmBytes, OpenFiles: r.OpenFiles,
	}
}

func modelOutdated(o kernels.Outdated) outdatedModel {
	m := outdatedModel{Kernel: o.Kernel}
	for _, part := range []struct {
		name string
		is   bool
	}{{"network", o.Network}, {"limits", o.Limits}, {"image", o.Image}, {"output", o.Output}} {
		if part.is {
			m.Parts = append(m.Parts, part.name)
		}
	}
	return m
}

// some returns a list that is not null in JSON.
func some(list []string) []string { return append([]string{}, list...) }

// policyTag is the ETag of a policy.
func policyTag(k policies.Kept) string { return `"` + strconv.FormatUint(k.Version, 10) + `"` }

// matchesTag reports whether an If-Match header names an ETag.
func matchesTag(header, tag string) bool {
	for one := range strings.SplitSeq(header, ",") {
		if one = strings.TrimSpace(one); one == tag || one == "*" {
			return true
		}
	}
	return false
}

var errNoPolicies = notFound("This server keeps no policies of workspaces")

func policyError(err error) error {
	switch {
	case errors.Is(err, policies.ErrInvalid):
		return badRequest("%s", sentence(strings.TrimPrefix(err.Error(), policies.ErrInvalid.Error()+": ")))
	case errors.Is(err, policies.ErrChanged):
		return &httpError{status: http.StatusPreconditionFailed, message: "The policy was changed by someone else meanwhile: look at it again"}
	}
	return err
}

func tooLarge(most int) error {
	return &httpError{status: http.StatusRequestEntityTooLarge, message: fmt.Sprintf("The body is larger than the limit of %d bytes", most)}
}
