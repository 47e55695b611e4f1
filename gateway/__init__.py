"""HTTP in, HTTP out: sockets, streaming, cancellation and the status page. It asks the controller and does as told."""
