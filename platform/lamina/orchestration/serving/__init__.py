"""Serving: bundles that answer over HTTP, many on one frozen backbone.

::

    HTTP --> front.py, in the process of `lamina serve`
               | checks a request (question.py), lets it wait for a free replica, and sends all
               | that wait on together (batching.py)
               v
             Ray Serve (deployment.py): keeps the replicas alive, chooses one
               v
             a replica: one backbone, the adapters of every bundle; rows of different bundles are
             one forward (resident_bundles.py)

Ray Serve's own HTTP proxy is not used: it hands each request to a replica by itself, which costs
more than MiniLM's forward does. Here what crosses to a replica is a batch.
"""
