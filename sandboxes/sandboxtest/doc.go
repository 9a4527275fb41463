// Package sandboxtest holds the contract of sandboxes.Driver as tests (Run),
// and a Driver in memory that passes them (Fake) for the tests of what stands
// above drivers. It knows the agent only through package agentapi.
package sandboxtest
