package jupyter

// ConnectionInfo is the connection file that a kernel is started with
// ("Making kernels for Jupyter", section "Connection files").
type ConnectionInfo struct {
	Transport       string `json:"transport"` // "tcp" or "ipc"
	IP              string `json:"ip"`        // for ipc: the path prefix; a socket is IP-PORT
	ShellPort       int    `json:"shell_port"`
	IOPubPort       int    `json:"iopub_port"`
	StdinPort       int    `json:"stdin_port"`
	ControlPort     int    `json:"control_port"`
	HBPort          int    `json:"hb_port"`
	Key             string `json:"key"`
	SignatureScheme string `json:"signature_scheme"` // always "hmac-sha256"
	KernelName      string `json:"kernel_name,omitempty"`
}

// Kernelspec is the content of a kernel.json ("Making kernels for Jupyter",
// section "Kernel specs"). Fields that it does not name are kept by those who
// hold the raw JSON.
type Kernelspec struct {
	Argv          []string          `json:"argv"`
	DisplayName   string            `json:"display_name"`
	Language      string            `json:"language"`
	Env           map[string]string `json:"env,omitempty"`
	InterruptMode string            `json:"interrupt_mode,omitempty"` // "signal" (default) or "message"
}
