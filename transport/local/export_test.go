package local

import (
	"os"
	"time"
)

// Hurry returns a Transport that closes the output of programs that have ended
// after so short a silence.
func Hurry(quiet time.Duration) *Transport { return &Transport{quiet: quiet} }

// Ended is closed when the connection is being closed.
func (c *conn) Ended() <-chan struct{} { return c.ctx.Done() }

// Quiet returns what tells, of a stream that nobody has read yet, whether nothing
// came since the last time but one.
func Quiet(r *os.File) func() bool { return (&output{r: r}).quiet }
