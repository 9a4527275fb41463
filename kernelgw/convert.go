package kernelgw

import "net/http"

// getConvertFormats names the formats that notebooks can be converted to: none.
// JupyterLab then says so in its menu; without an answer it complains.
func (s *Server) getConvertFormats(c *call) error {
	return c.JSON(http.StatusOK, struct{}{})
}
