"""Where it runs: set-up, quickstart, doctor, images, KubeRay manifests, dashboards.

May import every room; none imports it.
"""
