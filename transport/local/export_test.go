package local

import "time"

// Hurry returns a Transport that closes the output of programs that have ended
// after so short a silence.
func Hurry(quiet time.Duration) *Transport { return &Transport{quiet: quiet} }

// Ended is closed when the connection is being closed.
func (c *conn) Ended() <-chan struct{} { return c.ctx.Done() }
