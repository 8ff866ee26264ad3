"""Requests' bodies: read within bounds, whatever they are made of, and taken apart.

body       a body as it streams in, to fields and a picture's bytes
fields     what JSON may be made of
multipart  a form, taken apart
"""
